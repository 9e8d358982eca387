"""What training can be told: one tree, checked as a whole."""

import dataclasses
from typing import Literal

from c2am_dist.config.parts import (
    BridgingConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
)
from c2am_dist.config.tree import require

Method = Literal["c2am", "classifier", "cam", "bridging", "psol", "sipe", "saliency"]
Preset = Literal[
    "custom",
    "imagenet",
    "cub",
    "voc",
    "classifier-imagenet",
    "classifier-cub",
    "bridging-imagenet",
    "bridging-cub",
    "bridging-imagenet-vgg16",
    "bridging-cub-vgg16",
    "psol",
    "cam-voc",
    "sipe-voc",
    "saliency-voc",
]
_OUTPUT_STRIDES: dict[Method, int] = {
    "c2am": 16,
    "classifier": 16,
    "cam": 16,
    "bridging": 8,
    "psol": 32,
    "sipe": 16,
    "saliency": 32,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train on image shards; the same command again resumes."""

    method: Method = "c2am"
    """``c2am`` needs no labels; ``classifier`` trains an encoder from the shards' labels, and
    ``bridging`` one whose class activation maps cover the object; ``psol`` trains a box
    regressor on the pseudo boxes in ``data.boxes``. Of images with several classes (column
    ``labels``), ``cam`` trains a classifier and ``sipe`` one with image-specific prototypes;
    ``saliency`` learns to predict the background cues in ``data.cues``."""
    preset: Preset = "custom"
    """Published constants to start from; every other flag overrides them."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    bridging: BridgingConfig = BridgingConfig()
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
            self._check_c2am()
        if self.method == "bridging":
            self._check_bridging()
        if self.method in ("sipe", "saliency"):
            self._check_staged()
        is_kept = self.model.last_layer == "weights"
        is_free = not is_kept or (self.needs_labels and self.model.weights != "none")
        what = "'new' with random weights, and with methods that know no classes"
        require(is_free, "model.last_layer", what, self.model.last_layer)
        if self.method == "psol":
            require(not self.data.random_resize, "data.random_resize", "off with psol", True)
        else:
            unused = f"unset with method {self.method}, which learns from no boxes"
            require(not self.data.boxes, "data.boxes", unused, self.data.boxes)
        if self.method == "saliency":
            require(not self.data.random_resize, "data.random_resize", "off with saliency", True)
        else:
            unused = f"unset with method {self.method}, which learns from no cues"
            require(not self.data.cues, "data.cues", unused, self.data.cues)

    def _check_c2am(self) -> None:
        require(
            self.optim.batch_size >= 2,
            "optim.batch_size",
            ">= 2, since the contrast needs pairs",
            self.optim.batch_size,
        )
        is_published = self.model.output_stride in (None, 16)
        require(is_published, "model.output_stride", "16 with c2am", self.model.output_stride)

    def _check_bridging(self) -> None:
        has_blocks = self.model.encoder != "densenet161"
        require(has_blocks, "model.encoder", "a ResNet or vgg16 with bridging", self.model.encoder)
        # Its stages do not run as one module, which is what would be compiled.
        require(not self.optim.compile, "optim.compile", "off with bridging", True)

    def _check_staged(self) -> None:
        is_resnet = self.model.encoder.startswith("resnet")
        require(is_resnet, "model.encoder", f"a ResNet with {self.method}", self.model.encoder)
        is_published = self.method != "sipe" or self.model.output_stride in (None, 16)
        require(is_published, "model.output_stride", "16 with sipe", self.model.output_stride)
        # Their stages do not run as one module either.
        require(not self.optim.compile, "optim.compile", f"off with {self.method}", True)

    @property
    def output_stride(self) -> int:
        """Pixels a cell of the feature map spans."""
        return self.model.output_stride or _OUTPUT_STRIDES[self.method]

    @property
    def needs_labels(self) -> bool:
        """Whether each image must have one class: the shards' column ``label``."""
        return self.method in ("classifier", "bridging")

    @property
    def needs_label_lists(self) -> bool:
        """Whether each image's classes must be known: the shards' column ``labels``."""
        return self.method in ("cam", "sipe")

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        is_given = bool(self.data.train) and all(self.data.train)
        require(is_given, "data.train", "given (--data.train URI)", "")
        require(bool(self.model.weights), "model.weights", "given (a name, a URI or 'none')", "")
        require(bool(self.run.name), "run.name", "given (--run.name NAME)", "")
        if self.method == "psol":
            is_given = bool(self.data.boxes) and all(self.data.boxes)
            require(is_given, "data.boxes", "given with psol (--data.boxes URI)", "")
        if self.method == "saliency":
            is_given = bool(self.data.cues) and all(self.data.cues)
            require(is_given, "data.cues", "given with saliency (--data.cues URI)", "")
