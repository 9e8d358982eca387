"""What training can be told, and its presets."""

import dataclasses
import math
import re
from typing import Literal

from c2am_dist.config.tree import override, require

EncoderName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "densenet161"]
HeadInit = Literal["kaiming_normal", "kaiming_uniform", "normal", "uniform"]
Method = Literal["c2am", "classifier"]
Preset = Literal["custom", "imagenet", "cub", "voc"]
_HOOK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    train: tuple[str, ...] = ()
    """Shards to train on: one or more URIs (file, folder or glob; local, s3:// or gs://)."""
    limit: int | None = None
    """Use only this many images, spread evenly over the shards; all of them if unset."""
    resize_px: int = 256
    """Side in pixels of the square each image is resized to before cropping."""
    crop_px: int = 224
    """Side in pixels of the random crop the encoder sees."""
    flip: bool = True
    """Mirror each image with probability one half."""
    shuffle_images: int = 4096
    """Images shuffled together: row groups are drawn at random until they hold this many."""
    max_megapixels: float = 100.0
    """Larger images are decoded at a reduced scale where JPEG allows it, else skipped."""
    decode_tasks: int | None = None
    """Concurrent decode tasks; follows from the cluster's idle CPUs if unset."""
    prefetch: int = 2
    """Decoded parts of a batch that each worker has waiting, beside the one it trains on."""

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "data.limit", "positive", self.limit)
        require(self.crop_px >= 32, "data.crop_px", ">= 32", self.crop_px)
        require(
            self.resize_px >= self.crop_px,
            "data.resize_px",
            f">= data.crop_px ({self.crop_px})",
            self.resize_px,
        )
        require(self.shuffle_images > 0, "data.shuffle_images", "positive", self.shuffle_images)
        require(self.max_megapixels > 0, "data.max_megapixels", "positive", self.max_megapixels)
        require(
            self.decode_tasks is None or self.decode_tasks > 0,
            "data.decode_tasks",
            "positive",
            self.decode_tasks,
        )
        require(self.prefetch > 0, "data.prefetch", "positive", self.prefetch)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    encoder: EncoderName = "resnet50"
    """Architecture; the last stage runs at stride 1, so the output stride is 16."""
    weights: str = ""
    """Where the encoder starts: a torchvision weights name (``IMAGENET1K_V2``), a file or URI
    of a torchvision, MoCo, DetCo, DINO or c2am-dist checkpoint, or ``none`` for random."""
    head_init: HeadInit = "kaiming_normal"
    """Initialization of the activation head's 3x3 convolution (paper, Table 6)."""
    norm: Literal["sync", "worker", "frozen"] = "sync"
    """The encoder's BatchNorm: statistics of the global batch, of each worker's part, or the
    pretrained ones, unchanged. The head's own BatchNorm is never frozen."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    alpha: float = 0.05
    """Decay of the rank weight exp(-alpha * rank), eq. (5)."""
    rank_scope: Literal["row", "all"] = "row"
    """Rank a pair among its anchor's pairs (published code) or among all pairs (eq. 5)."""
    contrast: Literal["global", "worker"] = "global"
    """Contrast the whole batch, or each worker's part alone as the published code does."""

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "loss.alpha", ">= 0", self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    batch_size: int = 256
    """Images in the global batch, over all workers: what the contrast spans."""
    accumulation: int = 1
    """Micro-batches each worker's part is cut into; the contrast still spans them all."""
    epochs: float = 5.0
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after this many steps; the schedule ends there too."""
    lr: float = 1e-4
    """Learning rate of the encoder."""
    head_lr_factor: float = 10.0
    """The head (or the classifier's last layer) learns at ``lr`` times this."""
    momentum: float = 0.9
    """SGD momentum. The published code in effect trains with 1e-4."""
    weight_decay: float = 1e-4
    """L2 penalty, on every trained parameter."""
    power: float = 0.9
    """Polynomial decay: lr * (1 - step / steps) ** power."""
    train_norm_affine: bool = True
    """Train BatchNorm's weight and bias. The published code leaves them out."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Autocast type of the forward pass; the loss is float32 either way. ``auto`` is bf16 on
    GPUs and on CPUs with AVX512-BF16 (or AMX), float32 on others, which would emulate it."""
    compile: bool = False
    """Compile the encoder with torch.compile."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "epochs", "head_lr_factor"):
            require(getattr(self, name) > 0, f"optim.{name}", "positive", getattr(self, name))
        require(
            self.max_steps is None or self.max_steps > 0,
            "optim.max_steps",
            "positive",
            self.max_steps,
        )
        for name in ("lr", "weight_decay", "power"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"optim.{name}", ">= 0", value)
        require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    num_workers: int | tuple[int, int] = 1
    """Training workers: one per GPU, or CPU processes. Two numbers are a range: training runs
    on as many as the cluster has room for, restarting from the latest checkpoint when that
    changes. The global batch stays the same."""
    use_gpu: bool | None = None
    """Give each worker a GPU; if unset, whenever the cluster has one."""
    cpus_per_worker: float | None = None
    """CPUs reserved for each worker; the rest decode. If unset, one beside a GPU, else an
    equal share of half the CPUs."""

    def __post_init__(self) -> None:
        require(
            0 < self.min_workers <= self.max_workers,
            "scaling.num_workers",
            "positive, and of two the smaller first",
            self.num_workers,
        )
        require(
            self.cpus_per_worker is None or self.cpus_per_worker > 0,
            "scaling.cpus_per_worker",
            "positive",
            self.cpus_per_worker,
        )

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    storage: str = "runs"
    """URI of the folder that holds runs."""
    name: str = ""
    """The run's folder in it. The same command again resumes the run."""
    seed: int = 0
    """Seeds the head, the order of images and their augmentation."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 3
    """How many of the latest intermediate checkpoints to keep."""
    log_every: int = 10
    """Steps between metric rows."""
    polarity_images: int = 256
    """Training images whose maps vote on polarity at every checkpoint."""
    max_failures: int = 3
    """Restarts after lost workers, with no new checkpoint in between, before giving up."""
    tracker: str = ""
    """Where metric rows also go: ``mlflow``, ``wandb``, or a hook of your own as
    ``module:function``. Addresses and keys come from the tracker's own environment variables."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints", "log_every", "polarity_images"):
            require(getattr(self, name) > 0, f"run.{name}", "positive", getattr(self, name))
        require("/" not in self.name, "run.name", "a folder name without '/'", self.name)
        require(
            self.tracker in ("", "mlflow", "wandb") or bool(_HOOK.fullmatch(self.tracker)),
            "run.tracker",
            "mlflow, wandb or module:function",
            self.tracker,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train on image shards; the same command again resumes."""

    method: Method = "c2am"
    """``c2am`` needs no labels; ``classifier`` trains an encoder from the shards' labels."""
    preset: Preset = "custom"
    """Published constants to start from; every other flag overrides them."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    scaling: ScalingConfig = ScalingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        parts = self.scaling.max_workers * self.optim.accumulation
        require(
            self.optim.batch_size >= parts,
            "optim.batch_size",
            f">= scaling.num_workers * optim.accumulation ({parts})",
            self.optim.batch_size,
        )
        if self.method == "c2am":
            require(
                self.optim.batch_size >= 2,
                "optim.batch_size",
                ">= 2, since the contrast needs pairs",
                self.optim.batch_size,
            )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        is_given = bool(self.data.train) and all(self.data.train)
        require(is_given, "data.train", "given (--data.train URI)", "")
        require(bool(self.model.weights), "model.weights", "given (a name, a URI or 'none')", "")
        require(bool(self.run.name), "run.name", "given (--run.name NAME)", "")


PRESETS: dict[str, TrainConfig] = {
    "custom": TrainConfig(),
    # METHODS.md, "Constants published"; epochs, sizes and batches as the published code.
    "imagenet": TrainConfig(preset="imagenet"),
    "cub": override(
        TrainConfig(preset="cub"),
        {
            "data.resize_px": 480,
            "data.crop_px": 448,
            "optim.batch_size": 16,
            "optim.epochs": 20.0,
        },
    ),
    "voc": override(
        TrainConfig(preset="voc"),
        {
            "data.resize_px": 512,
            "data.crop_px": 448,
            "loss.alpha": 0.25,
            "optim.lr": 1e-3,
            "optim.batch_size": 128,
            "optim.epochs": 10.0,
        },
    ),
}
