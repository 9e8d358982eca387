"""What the tables of the papers, made anew, can be told."""

import dataclasses
import re
from typing import Literal, get_args

from c2am_dist.config.parts import EncoderName
from c2am_dist.config.tree import require

WsolMethod = Literal["cam", "ddt", "bridging", "c2am", "ddt+psol", "c2am+psol"]
_START = re.compile(r"(\w+):([\w.-]+)=(.+)")


def check_start(field: str, start: str) -> None:
    """Raises ValueError naming the field unless a start is ``ENCODER:NAME=WEIGHTS``."""
    found = _START.fullmatch(start)
    is_known = found is not None and found[1] in get_args(EncoderName)
    what = f"ENCODER:NAME=WEIGHTS, with ENCODER one of {', '.join(get_args(EncoderName))}"
    require(is_known, field, what, start)


def split_start(start: str) -> tuple[str, str, str]:
    """Encoder, name and weights of a start that :func:`check_start` lets pass."""
    found = _START.fullmatch(start)
    assert found is not None
    return found[1], found[2], found[3]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WsolConfig:
    """Make the rows of the C²AM paper's Tables 1 to 3: encoder x initialization x method."""

    train: tuple[str, ...] = ()
    """Shards with labels to train on: one or more URIs."""
    val: tuple[str, ...] = ()
    """Shards with labels and boxes to score: one or more URIs."""
    output: str = ""
    """Folder URI for the runs, labels, metrics and the table. The same command again goes on."""
    dataset: Literal["imagenet", "cub"] = "imagenet"
    """Whose presets train, and whose published figures stand beside ours."""
    starts: tuple[str, ...] = ()
    """Where encoders start: ``ENCODER:NAME=WEIGHTS`` each, such as
    ``resnet50:moco=s3://bucket/moco.pth``. ``supervised``, ``moco`` and ``detco`` are names of the
    papers, whose figures are then found; weights are what ``model.weights`` of training takes."""
    classifier: str = ""
    """What tells classes for Top-1 and Top-5 Loc, and has cam's maps: ``ENCODER=WEIGHTS``, a
    torchvision classifier's whose outputs are the sorted labels of ``train``. If unset, one is
    trained from the first start."""
    size_px: int | None = None
    """Side in pixels of the square that plain weights see: DDT's encoders, and ``classifier``. If
    unset 224, and for classes the middle of 256. What is trained here sees what it was trained
    on."""
    methods: tuple[WsolMethod, ...] = ("cam", "ddt", "bridging", "c2am", "c2am+psol")
    """Rows of each start; ``cam`` has one, of the classifier. The centred box is always there."""
    settings: tuple[str, ...] = ()
    """Changes to the presets: ``METHOD:PATH=VALUE``, such as ``c2am:optim.epochs=2``, by the dotted
    path of training's flags. METHOD is ``classifier``, ``bridging``, ``c2am``, ``psol`` or
    ``all``."""
    precision: Literal["bf16", "float32"] = "float32"
    """Autocast type when images are labeled and classified; of training see ``optim.precision``."""
    bootstrap: int = 1000
    """Resamples for 95% confidence intervals; none if 0."""

    def __post_init__(self) -> None:
        for start in self.starts:
            check_start("starts", start)
        is_pair = "=" in self.classifier.strip("=")
        require(not self.classifier or is_pair, "classifier", "ENCODER=WEIGHTS", self.classifier)
        require(len(set(self.methods)) == len(self.methods), "methods", "distinct", self.methods)
        is_size = self.size_px is None or self.size_px > 0
        require(is_size, "size_px", "positive", self.size_px)
        require(self.bootstrap >= 0, "bootstrap", ">= 0", self.bootstrap)

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("train", "val", "output", "starts"):
            require(bool(getattr(self, name)), name, f"given (--{name})", "")

    def split_starts(self) -> list[tuple[str, str, str]]:
        """Encoder, name and weights of each start."""
        return [split_start(start) for start in self.starts]
