"""The parts of a TrainConfig, each with its flags."""

import dataclasses
import math
import re
from typing import Literal

from c2am_dist.config.tree import require

EncoderName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "densenet161"]
HeadInit = Literal["kaiming_normal", "kaiming_uniform", "normal", "uniform"]
_HOOK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    train: tuple[str, ...] = ()
    """Shards to train on: one or more URIs (file, folder or glob; local, s3:// or gs://)."""
    boxes: tuple[str, ...] = ()
    """Label sets (jobs/label.py) of these images, for ``psol``: it learns each image's first
    pseudo box, and leaves out images without one."""
    cues: tuple[str, ...] = ()
    """Label sets (jobs/label.py --write-cues) of these images, for ``saliency``: it learns their
    background cues, and nothing from images without one."""
    limit: int | None = None
    """Use only this many images, spread evenly over the shards; all of them if unset."""
    resize_px: int = 256
    """Side in pixels of the square each image is resized to before cropping."""
    crop_px: int = 224
    """Side in pixels of the random crop the encoder sees."""
    random_resize: bool = False
    """Crop 8 to 100% of the image's area at an aspect of 3/4 to 4/3, and resize that to
    ``crop_px``, as classifiers are trained; ``resize_px`` is not used then."""
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
    """Architecture. ``bridging`` takes no DenseNet, ``sipe`` and ``saliency`` a ResNet."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels a cell of the feature map spans. If unset, the method's published one: 16 for
    ``c2am`` and ``sipe``, which take no other, ``classifier`` and ``cam``, 8 for ``bridging``, 32
    for ``psol`` and ``saliency``."""
    weights: str = ""
    """Where the encoder starts: a torchvision weights name (``IMAGENET1K_V2``), a file or URI
    of a torchvision, MoCo, DetCo, DINO or c2am-dist checkpoint, or ``none`` for random."""
    last_layer: Literal["new", "weights"] = "new"
    """classifier and bridging: begin with a last layer of random numbers, or with that of
    ``weights``, whose outputs must be the classes of ``data.train``: those a checkpoint names, of a
    torchvision one the sorted labels (ImageNet's order)."""
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
class BridgingConfig:
    drop_weight: float = 2.0
    """Weight of the consistency with attentive dropout."""
    similarity_weight: float = 0.5
    """Weight of the similarity loss."""
    norm_weight: float = 0.05
    """Weight of the norm loss."""
    foreground_threshold: float = 0.4
    """Cells whose normalised norm is larger are the object, for the similarity loss."""
    background_threshold: float = 0.2
    """Cells whose normalised norm is smaller are background, for the similarity loss."""
    drop_threshold: float = 0.8
    """Cells whose channel mean exceeds this share of the image's maximum may drop."""
    drop_rate: float = 0.25
    """Probability with which each of them does."""
    norm_class: Literal["target", "best"] = "best"
    """Whose similarity tells object from background in the norm loss: the label's (ImageNet),
    or at each cell the best class's (CUB)."""
    warmup_share: float = 20 / 70
    """Share of the run's steps without similarity and norm loss: 20 of 70 epochs."""

    def __post_init__(self) -> None:
        for name in ("drop_weight", "similarity_weight", "norm_weight"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"bridging.{name}", ">= 0", value)
        for name in ("drop_threshold", "drop_rate", "warmup_share", "foreground_threshold"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"bridging.{name}", "in [0, 1]", value)
        require(
            0 <= self.background_threshold <= self.foreground_threshold,
            "bridging.background_threshold",
            f"in [0, bridging.foreground_threshold] ({self.foreground_threshold})",
            self.background_threshold,
        )


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
    lr_batch_size: int | None = None
    """The batch that ``lr`` is for: another ``batch_size`` scales it in proportion. If unset,
    ``lr`` is taken as it is."""
    head_lr_factor: float = 10.0
    """The head (or the classifier's last layer) learns at ``lr`` times this."""
    momentum: float = 0.9
    """SGD momentum. The published code of C²AM in effect trains with 1e-4."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 1e-4
    """L2 penalty, on every trained parameter."""
    max_gradient_norm: float | None = None
    """Gradients are scaled down to this norm, over all parameters, where it is larger; unclipped
    if unset."""
    power: float = 0.9
    """Polynomial decay: lr * (1 - step / steps) ** power; 0 for none."""
    decay_epochs: tuple[float, ...] = ()
    """Epochs after each of which the learning rate is multiplied by ``decay_factor``."""
    decay_factor: float = 0.1
    """See ``decay_epochs``."""
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
        norm = self.max_gradient_norm
        require(norm is None or norm > 0, "optim.max_gradient_norm", "positive", norm)
        for name in ("lr", "weight_decay", "power", "decay_factor"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"optim.{name}", ">= 0", value)
        require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)
        require(
            self.momentum > 0 or not self.nesterov, "optim.nesterov", "off without momentum", True
        )
        require(
            self.lr_batch_size is None or self.lr_batch_size > 0,
            "optim.lr_batch_size",
            "positive",
            self.lr_batch_size,
        )
        require(
            all(epoch > 0 for epoch in self.decay_epochs),
            "optim.decay_epochs",
            "positive",
            self.decay_epochs,
        )

    @property
    def scaled_lr(self) -> float:
        """The encoder's learning rate at this batch."""
        if self.lr_batch_size is None:
            return self.lr
        return self.lr * self.batch_size / self.lr_batch_size


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
