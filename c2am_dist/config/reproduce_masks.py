"""What the tables of segmentation, made anew, can be told."""

import dataclasses
from typing import Literal

from c2am_dist.config.reproduce import check_start, split_start
from c2am_dist.config.tree import require

WsssRow = Literal[
    "cam", "cam+crf", "cam+guided", "cam+c2am", "cam+c2am+crf", "cam+c2am+guided", "cam+saliency",
    "sipe-cam", "sipe", "sipe+c2am"
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WsssConfig:
    """Make rows of the C²AM paper's Tables 4 and 5, and SIPE's two maps: pseudo masks' mIoU."""

    train: tuple[str, ...] = ()
    """Shards with label lists to train on: one or more URIs."""
    val: tuple[str, ...] = ()
    """Shards with label lists and masks to score (the papers score the training set): one or more
    URIs."""
    output: str = ""
    """Folder URI for the runs, labels, masks, metrics and the table. The same command again goes
    on."""
    label_map: str = "voc"
    """What ids the masks hold: ``voc``, ``coco``, or URI of a text file, a class a line from id
    1 on."""
    start: str = ""
    """Where encoders start: ``ENCODER:NAME=WEIGHTS``; weights are what ``model.weights`` of
    training takes. SIPE takes a ResNet."""
    c2am_start: str = ""
    """Where C²AM's starts, if elsewhere: the paper has MoCo's weights there."""
    cams: tuple[str, ...] = ()
    """Folders of other projects' ``.npy`` maps of ``val``, ``NAME=URI`` each: rows NAME, NAME+crf
    and NAME+c2am of them, such as ``seam=s3://bucket/seam-cams``."""
    rows: tuple[WsssRow, ...] = ("cam", "cam+crf", "cam+c2am", "sipe-cam", "sipe", "sipe+c2am")
    """Which rows: class maps, and what competes with them. Without cues it is the best constant
    threshold, chosen on the masks that are scored and so called an oracle's; ``crf`` refines the
    masks, ``guided`` the maps before they compete, and ``saliency`` are the cues of a predictor
    trained on C²AM's."""
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
    """Constant backgrounds that are tried."""
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Sizes, relative to the training crop, whose maps are summed, each also mirrored."""
    cue_threshold: float | Literal["otsu"] = 0.3
    """Of the cues that ``saliency`` learns, which a dense CRF has refined: as labeling's flag."""
    settings: tuple[str, ...] = ()
    """Changes to the presets: ``METHOD:PATH=VALUE``, such as ``c2am:optim.epochs=2``, by the dotted
    path of training's flags. METHOD is ``cam``, ``c2am``, ``sipe``, ``saliency`` or ``all``."""
    precision: Literal["bf16", "float32"] = "float32"
    """Autocast type when images are labeled; of training see ``optim.precision``."""

    def __post_init__(self) -> None:
        for name in ("start", "c2am_start"):
            if getattr(self, name):
                check_start(name, getattr(self, name))
        for pair in self.cams:
            require("=" in pair.strip("="), "cams", "NAME=URI", pair)
        require(len(set(self.rows)) == len(self.rows), "rows", "distinct", self.rows)
        is_share = bool(self.thresholds) and all(0 <= value <= 1 for value in self.thresholds)
        require(is_share, "thresholds", "numbers in [0, 1]", self.thresholds)
        is_size = bool(self.scales) and all(0 < scale <= 4 for scale in self.scales)
        require(is_size, "scales", "numbers in (0, 4]", self.scales)

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("train", "val", "output", "start"):
            require(bool(getattr(self, name)), name, f"given (--{name})", "")

    def start_of(self, method: str) -> tuple[str, str, str]:
        """Encoder, name and weights that a method starts from."""
        is_own = method == "c2am" and self.c2am_start
        return split_start(self.c2am_start if is_own else self.start)
