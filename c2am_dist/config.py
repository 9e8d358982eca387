"""What each job can be told: frozen dataclasses, presets, and overrides by dotted path.

The command lines are made from these trees (tyro reads the docstrings below each field),
and the resolved tree is stored as JSON in checkpoints and Parquet metadata. Values are
checked on construction; an error names the dotted path. Credentials never belong here.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

EncoderName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "vgg16"]
HeadInit = Literal["kaiming_normal", "kaiming_uniform", "normal", "uniform"]
Method = Literal["c2am", "classifier"]
Preset = Literal["custom", "imagenet", "cub", "voc"]
Config = TypeVar("Config")


def _require(is_valid: bool, path: str, expected: str, value: object) -> None:
    if not is_valid:
        raise ValueError(f"{path} must be {expected}, got {value!r}")


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

    def __post_init__(self) -> None:
        _require(self.limit is None or self.limit > 0, "data.limit", "positive", self.limit)
        _require(self.crop_px >= 32, "data.crop_px", ">= 32", self.crop_px)
        _require(
            self.resize_px >= self.crop_px,
            "data.resize_px",
            f">= data.crop_px ({self.crop_px})",
            self.resize_px,
        )
        _require(self.shuffle_images > 0, "data.shuffle_images", "positive", self.shuffle_images)
        _require(self.max_megapixels > 0, "data.max_megapixels", "positive", self.max_megapixels)
        _require(
            self.decode_tasks is None or self.decode_tasks > 0,
            "data.decode_tasks",
            "positive",
            self.decode_tasks,
        )


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
        _require(self.alpha >= 0, "loss.alpha", ">= 0", self.alpha)


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
            _require(getattr(self, name) > 0, f"optim.{name}", "positive", getattr(self, name))
        _require(
            self.max_steps is None or self.max_steps > 0,
            "optim.max_steps",
            "positive",
            self.max_steps,
        )
        for name in ("lr", "weight_decay", "power"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"optim.{name}", ">= 0", value)
        _require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)


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
        _require(
            0 < self.min_workers <= self.max_workers,
            "scaling.num_workers",
            "positive, and of two the smaller first",
            self.num_workers,
        )
        _require(
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

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints", "log_every", "polarity_images"):
            _require(getattr(self, name) > 0, f"run.{name}", "positive", getattr(self, name))
        _require("/" not in self.name, "run.name", "a folder name without '/'", self.name)


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
        _require(
            self.optim.batch_size >= parts,
            "optim.batch_size",
            f">= scaling.num_workers * optim.accumulation ({parts})",
            self.optim.batch_size,
        )
        if self.method == "c2am":
            _require(
                self.optim.batch_size >= 2,
                "optim.batch_size",
                ">= 2, since the contrast needs pairs",
                self.optim.batch_size,
            )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        _require(bool(self.data.train), "data.train", "given (--data.train URI)", "")
        _require(bool(self.model.weights), "model.weights", "given (a name, a URI or 'none')", "")
        _require(bool(self.run.name), "run.name", "given (--run.name NAME)", "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """Write pseudo boxes and background cues for every image of a set."""

    checkpoint: str = ""
    """URI of a checkpoint folder, or of a run (its final, else its latest checkpoint)."""
    input: tuple[str, ...] = ()
    """Shards to label: one or more URIs."""
    output: str = ""
    """Folder URI for the label files. The same command again goes on where a job was cut off."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes, relative to ``size_px``, whose maps are summed (METHODS: 0.5 1 1.5 2 for cues)."""
    flip: bool = False
    """Add the maps of the mirrored image."""
    size_px: int | None = None
    """Side in pixels of the square the encoder sees at scale 1; the training crop if unset."""
    threshold: float | Literal["auto", "otsu", "evaluation"] = "auto"
    """Share of the map's maximum above which a cell is foreground: a number in [0, 1), the
    unsupervised ``otsu`` rule, or the one an ``evaluation`` stored in the checkpoint.
    ``auto`` takes the stored one where there is one, else ``otsu``."""
    max_boxes: int = 1
    """Boxes an image, the largest contour first."""
    write_maps: Literal["none", "map", "image"] = "map"
    """Store the activation map as 16-bit PNG at the map's size, at the image's, or not."""
    write_cues: Literal["none", "map", "image"] = "none"
    """Store the background cue as 8-bit PNG (255 = background), likewise."""
    batch_size: int = 32
    """Images a forward pass."""
    num_actors: int | None = None
    """Model actors; one per GPU, or one per CPU where there is none, if unset."""
    use_gpu: bool | None = None
    """Give each actor a GPU, or a share of one; if unset, whenever the cluster has one."""
    precision: Literal["bf16", "float32"] = "float32"
    """Autocast type of the forward pass."""
    max_megapixels: float = 100.0
    """Larger images are decoded at a reduced scale where JPEG allows it, else an error row."""
    max_error_fraction: float = 0.01
    """Exit with status 1 when more than this share of the images could not be labeled."""

    def __post_init__(self) -> None:
        _require(
            bool(self.scales) and all(0 < s <= 4 for s in self.scales),
            "scales",
            "numbers in (0, 4]",
            self.scales,
        )
        if isinstance(self.threshold, float):
            _require(0 <= self.threshold < 1, "threshold", "in [0, 1)", self.threshold)
        for name in ("max_boxes", "batch_size"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        _require(
            0 <= self.max_error_fraction <= 1,
            "max_error_fraction",
            "in [0, 1]",
            self.max_error_fraction,
        )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("checkpoint", "input", "output"):
            _require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Score labels against annotations, beside the centred box."""

    labels: tuple[str, ...] = ()
    """Label files to score: one or more URIs."""
    annotations: tuple[str, ...] = ()
    """Shards with boxes (and masks): one or more URIs."""
    output: str = ""
    """Where to write the metrics, a JSON file; a Markdown table is written beside it."""
    store_threshold: str = ""
    """URI of a checkpoint folder to store the chosen threshold in, for later labeling."""
    allow_incomplete: bool = False
    """Score a folder whose labeling has not finished (it has no ``_SUCCESS``)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Turn a data set into Parquet shards."""

    input: tuple[str, ...] = ()
    """One or more URIs: the data set's root folder, or files, globs and tars."""
    output: str = ""
    """Folder URI for the shards; must not hold any yet."""
    format: Literal["folder", "imagenet", "cub", "voc", "coco", "yolo", "webdataset"] = "folder"
    """How the input is laid out."""
    split: str | None = None
    """Only this split, of sets that have several; the split's name, for sets that have none."""
    annotations: str | None = None
    """URI of annotations that lie apart from the images: ImageNet's XML or ground truth, COCO's
    JSON, YOLO's folder of text files or file of class names."""
    shard_mib: float = 128.0
    """Target size of a shard in MiB."""
    row_group_mib: float = 4.0
    """Target size of a row group in MiB: what a reader fetches at once."""
    shuffle_seed: int | None = 0
    """Store the images in an order drawn from this seed, so that neighbours are unrelated;
    sorted by image_id if unset (``None``)."""

    def __post_init__(self) -> None:
        _require(self.row_group_mib > 0, "row_group_mib", "positive", self.row_group_mib)
        _require(
            self.shard_mib >= self.row_group_mib,
            "shard_mib",
            f">= row_group_mib ({self.row_group_mib})",
            self.shard_mib,
        )


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with fields replaced by dotted path: ``override(c, {"loss.alpha": 0.1})``.

    Raises:
        ValueError: a path names no field, or a value is out of range.
    """
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()  # type: ignore
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}  # applied together: values are checked together
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if head not in {field.name for field in fields}:
            raise ValueError(f"{path}: {type(config).__name__} has no field {head!r}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    for head, inner in nested.items():
        changes[head] = override(getattr(config, head), inner)
    return dataclasses.replace(config, **changes)  # type: ignore


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


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's tree of mappings as one, by dotted path."""
    items: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{name}.")  # type: ignore[reportUnknownArgumentType]
        else:
            items[prefix + name] = value
    return items


def to_json(config: Any) -> str:
    """The config as canonical JSON: sorted keys, no spaces."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, separators=(",", ":"))


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()
