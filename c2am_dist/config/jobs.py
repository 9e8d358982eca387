"""What the other jobs can be told."""

import dataclasses
import re
from typing import Literal

from c2am_dist.config.tree import require

ExportFormat = Literal["coco", "yolo", "voc", "label-studio", "fiftyone", "webdataset", "masks"]
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
class ExportConfig:
    """Write labels as a data set that other tools read."""

    labels: tuple[str, ...] = ()
    """Label files to export: one or more URIs."""
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
    found none, also those whose boxes were all left out by score (``all``), or ``none``."""
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
