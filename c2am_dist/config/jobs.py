"""What the other jobs can be told."""

import dataclasses
import re
from typing import Literal

from c2am_dist.config.tree import require

ExportFormat = Literal[
    "coco", "yolo", "voc", "label-studio", "fiftyone", "webdataset", "masks", "cues"
]
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]+")


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
    masks: str | None = None
    """URI of a folder of masks that lie apart from the images: PNGs of class ids (255 = ignored)
    called by image_id, such as VOC's SegmentationClassAug."""
    draw_masks: bool = False
    """coco: draw each image's mask of category ids from its polygons and RLE, which needs the
    extra ``coco``."""
    shard_mib: float = 128.0
    """Target size of a shard in MiB."""
    row_group_mib: float = 4.0
    """Target size of a row group in MiB, at most 1024: what a reader fetches at once."""
    shuffle_seed: int | None = 0
    """Store the images in an order drawn from this seed, so that neighbours are unrelated;
    sorted by image_id if unset (``None``)."""

    def __post_init__(self) -> None:
        # With an image and its mask on top, still less than readers refuse.
        is_valid = 0 < self.row_group_mib <= 1024
        require(is_valid, "row_group_mib", "in (0, 1024]", self.row_group_mib)
        require(
            self.shard_mib >= self.row_group_mib,
            "shard_mib",
            f">= row_group_mib ({self.row_group_mib})",
            self.shard_mib,
        )
        if self.draw_masks:
            require(self.format == "coco", "format", "coco with draw_masks", self.format)
            require(self.masks is None, "masks", "unset with draw_masks", self.masks)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Score labels against annotations, beside the centred box."""

    labels: tuple[str, ...] = ()
    """Label files to score: one or more URIs."""
    annotations: tuple[str, ...] = ()
    """Shards with boxes (and masks, and labels): one or more URIs."""
    predictions: tuple[str, ...] = ()
    """A classifier's predictions, for Top-1 and Top-5 Loc and accuracy: one or more URIs."""
    output: str = ""
    """Where to write the metrics, a JSON file; beside it a Markdown table and the curves."""
    per_class: bool = False
    """Write a table of each class's figures, too, as JSON and Markdown beside the metrics."""
    bootstrap: int = 0
    """Resamples of the images for 95% confidence intervals, such as 1000; none without."""
    store_threshold: str = ""
    """URI of a checkpoint folder to store the chosen threshold in, for later labeling."""
    allow_incomplete: bool = False
    """Score a folder whose labeling has not finished (it has no ``_SUCCESS``)."""

    def __post_init__(self) -> None:
        require(self.bootstrap >= 0, "bootstrap", ">= 0", self.bootstrap)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RefineConfig:
    """Turn class activation maps into pseudo masks: of a class or the background at each pixel."""

    maps: tuple[str, ...] = ()
    """Label sets with class maps (jobs/label.py --write-class-maps), or a folder of ``.npy`` files
    as PSA, SEAM, PuzzleCAM and AdvCAM write them, called by image_id: one or more URIs."""
    cues: tuple[str, ...] = ()
    """Label sets with background cues (jobs/label.py --write-cues), or a folder of PNGs
    (255 = background) called by image_id. Without, ``threshold`` is the background."""
    images: tuple[str, ...] = ()
    """The shards that were labeled: one or more URIs."""
    output: str = ""
    """Folder URI for the masks. The same command again goes on where a job was cut off."""
    label_map: str = "voc"
    """What ids the masks hold: ``voc``, ``coco``, or URI of a text file, a class a line from id
    1 on. Classes of label sets are found in it by name, those of ``.npy`` files by id."""
    threshold: float | None = None
    """The background is everywhere as bright as this, in [0, 1]: the plain baseline."""
    refinement: Literal["none", "crf", "guided"] = "none"
    """Refine along the image's edges: the mask by a dense CRF (needs the extra ``crf``), or the
    maps and the cue by a guided filter before they compete."""
    guided_radius_px: int = 8
    """guided: windows have sides of twice this and one pixel more."""
    guided_epsilon: float = 1e-4
    """guided: variance of the colours, in [0, 1], below which a window counts as flat."""
    write_png: bool = True
    """Write each mask as a PNG file, too, below ``png/`` in the output folder."""
    num_tasks: int | None = None
    """Tasks at once, a CPU each; all CPUs if unset."""
    max_megapixels: float = 100.0
    """Larger images become error rows."""
    max_error_fraction: float = 0.01
    """Exit with status 1 when more than this share of the images got no mask."""
    allow_incomplete: bool = False
    """Take label sets that have not finished (they have no ``_SUCCESS``)."""

    def __post_init__(self) -> None:
        is_share = self.threshold is None or 0 <= self.threshold <= 1
        require(is_share, "threshold", "in [0, 1]", self.threshold)
        is_one = self.threshold is None or not self.cues
        require(is_one, "threshold", "unset with cues, which are the background", self.threshold)
        require(bool(self.label_map), "label_map", "voc, coco or a URI", self.label_map)
        for name in ("guided_radius_px", "guided_epsilon"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        is_count = self.num_tasks is None or self.num_tasks > 0
        require(is_count, "num_tasks", "positive", self.num_tasks)
        require(self.max_megapixels > 0, "max_megapixels", "positive", self.max_megapixels)
        require(
            0 <= self.max_error_fraction <= 1,
            "max_error_fraction",
            "in [0, 1]",
            self.max_error_fraction,
        )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("maps", "images", "output"):
            require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")
        is_given = bool(self.cues) or self.threshold is not None
        require(is_given, "cues", "given (--cues URI), or a --threshold in their place", "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateMasksConfig:
    """Score pseudo masks, or background cues, against annotated masks: mIoU and its parts."""

    masks: tuple[str, ...] = ()
    """Pseudo masks (jobs/refine.py) or a folder of PNGs called by image_id; label sets with
    background cues are scored as foreground against background: one or more URIs."""
    annotations: tuple[str, ...] = ()
    """Shards with masks, or a folder of PNGs called by image_id: one or more URIs."""
    output: str = ""
    """Where to write the metrics, a JSON file; beside it Markdown tables and a picture."""
    label_map: str = "voc"
    """What ids the annotated masks hold: ``voc``, ``coco`` (category ids), or URI of a text file,
    a class a line from id 1 on."""
    foreground_only: bool = False
    """Score two classes, background and all others, as masks of CUB-200-2011 need."""
    agreement_masks: bool = False
    """The annotated masks are CUB's own grey levels, where 128 and more is the bird."""
    baseline: tuple[str, ...] = ()
    """Other masks of the same images: which classes gain over them, and which lose."""
    allow_incomplete: bool = False
    """Score a folder whose job has not finished (it has no ``_SUCCESS``)."""

    def __post_init__(self) -> None:
        require(bool(self.label_map), "label_map", "voc, coco or a URI", self.label_map)

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("masks", "annotations", "output"):
            require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write labels as a data set that other tools read."""

    labels: tuple[str, ...] = ()
    """Label files, or pseudo masks (jobs/refine.py), to export: one or more URIs. Masks go to
    ``voc``, ``coco`` and ``masks``, and take no flag that is about boxes; nor does ``cues``."""
    images: tuple[str, ...] = ()
    """The shards that were labeled: one or more URIs."""
    output: str = ""
    """Folder URI; must be empty, or hold an unfinished export of the same."""
    format: ExportFormat = "coco"
    """What to write; docs/export.md shows the files of each."""
    min_score: float = 0.0
    """Keep boxes with at least this score, in [0, 1]."""
    max_boxes: int | None = None
    """Boxes an image, the largest contour first; all that are labeled if unset."""
    quantile: float | None = None
    """Keep this share of the boxes, in (0, 1], those with the highest scores, counted over the
    whole set after ``max_boxes`` and ``min_score``. Boxes with equal scores stay together."""
    keep_empty: Literal["labeled", "all", "none"] = "labeled"
    """Images without a box, which most tools take to show no object: those for which labeling
    found none, also those whose boxes were all left out by score (``all``), or ``none``. Of
    pseudo masks, images that are all background."""
    category_name: str = "object"
    """What the one class is called: the boxes do not tell classes apart."""
    split: str = "train"
    """Name of the set in formats that have splits."""
    with_images: bool = True
    """Write the image files, too, upright and as JPEG or PNG. Without them ``images`` is not
    needed, and files are called by image_id as it is."""
    image_suffix: str = ".jpg"
    """Without images: what follows image_id in the names of yours."""
    image_prefix: str | None = None
    """Label Studio: what precedes an image's name in the tasks, such as a URL. If unset, the
    URI of the images in an object store, else the path that Label Studio serves local files by."""
    tar_mib: float = 256.0
    """WebDataset: target size of a tar in MiB."""
    allow_incomplete: bool = False
    """Export a folder whose labeling has not finished (it has no ``_SUCCESS``)."""

    def __post_init__(self) -> None:
        require(0 <= self.min_score <= 1, "min_score", "in [0, 1]", self.min_score)
        require(
            self.max_boxes is None or self.max_boxes > 0, "max_boxes", "positive", self.max_boxes
        )
        require(
            self.quantile is None or 0 < self.quantile <= 1,
            "quantile",
            "in (0, 1]",
            self.quantile,
        )
        require(
            bool(self.category_name.strip()) and self.category_name.isprintable(),
            "category_name",
            "a printable text",
            self.category_name,
        )
        require(bool(_WORD.fullmatch(self.split)), "split", "letters, digits, _ or -", self.split)
        require(
            bool(_SUFFIX.fullmatch(self.image_suffix)),
            "image_suffix",
            "a dot and letters or digits",
            self.image_suffix,
        )
        require(self.tar_mib > 0, "tar_mib", "positive", self.tar_mib)
        require(
            self.with_images or self.format != "webdataset",
            "with_images",
            "set for webdataset, whose samples hold the images",
            self.with_images,
        )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        needed = ("labels", "images", "output") if self.with_images else ("labels", "output")
        for name in needed:
            require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")
