"""Label rows, the boxes that are kept, and the images they are of, a sample at a time."""

import dataclasses
import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from c2am_dist import names, schema
from c2am_dist.config import ExportConfig
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.export.pictures import Picture, Pictures
from c2am_dist.method import images

logger = logging.getLogger(__name__)

COLUMNS = ("image_id", "shard", "width", "height", "pseudo_boxes", "error", "checkpoint_sha256")
MAP_COLUMNS = ("activation_map", "threshold")
"""Read for masks alone."""
_BATCH_ROWS = 1024


class Box(NamedTuple):
    """Half-open, in pixels of the upright image; the score is in [0, 1]."""

    x0: int
    y0: int
    x1: int
    y1: int
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A labeled image as it is exported."""

    image_id: str
    name: str
    """Path of its files, without extension."""
    size: tuple[int, int]
    """Height and width, upright."""
    boxes: tuple[Box, ...]
    """The largest contour's first."""
    checkpoint_sha256: str
    picture: Picture | None
    """None where images are not exported."""
    image_suffix: str
    activation_map: bytes | None = None
    threshold: float | None = None
    """Share of the stretched map's maximum; with the map, for masks alone."""

    @property
    def file_name(self) -> str:
        return self.name + self.image_suffix


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Which boxes and images are kept."""

    min_score: float
    max_boxes: int | None
    keep_empty: str

    def boxes(self, found: Sequence[Box]) -> tuple[Box, ...]:
        # Stored scores are float32: compared with a float64 0.9 they would miss it.
        least = float(np.float32(self.min_score))
        return tuple(box for box in found[: self.max_boxes] if box.score >= least)

    def has_image(self, found: Sequence[Box], kept: Sequence[Box]) -> bool:
        """Whether an image is exported, of whose boxes some or none are kept."""
        return (
            bool(kept) or self.keep_empty == "all" or (self.keep_empty == "labeled" and not found)
        )


def select(groups: Sequence[RowGroup], config: ExportConfig) -> Selection:
    """The selection of a config; with a quantile, as the least score that gives it.

    Holds four bytes a box then.
    """
    selection = Selection(config.min_score, config.max_boxes, config.keep_empty)
    if config.quantile is None:
        return selection
    scores = [np.empty(0, np.float32)]
    for group in groups:
        for rows in batches(group, ("image_id", "width", "height", "pseudo_boxes", "error")):
            kept = [box for row in rows for box in selection.boxes(_boxes(row))]
            scores.append(np.array([box.score for box in kept], np.float32))
    ordered = np.sort(np.concatenate(scores))
    if not len(ordered):
        return selection
    num_kept = math.ceil(config.quantile * len(ordered) - 1e-9)  # 0.1 * 30 is more than 3
    least = ordered[len(ordered) - max(1, num_kept)]
    return dataclasses.replace(selection, min_score=float(least))


def refuse_duplicates(groups: Sequence[RowGroup]) -> None:
    """Raises ValueError naming an image that has two label rows; holds eight bytes a row."""
    digests = [_digests(_read_ids(group)) for group in groups]
    ordered = np.sort(np.concatenate(digests))
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    seen: set[str] = set()  # a few at most: different ids with one digest are next to impossible
    for group in groups:
        ids = _read_ids(group)
        for index in np.flatnonzero(np.isin(_digests(ids), twice)):
            if ids[index] in seen:
                raise ValueError(f"{group.uri}: image_id {ids[index]!r} comes a second time")
            seen.add(ids[index])


def _read_ids(group: RowGroup) -> list[str]:
    return shards.read(group, ["image_id"], schema.LABELS)["image_id"].to_pylist()


def _digests(ids: Sequence[str]) -> np.ndarray:
    parts = [hashlib.blake2b(image_id.encode(), digest_size=8).digest() for image_id in ids]
    return np.frombuffer(b"".join(parts), np.uint64)


def stream(
    groups: Sequence[RowGroup],
    config: ExportConfig,
    selection: Selection,
    pictures: Pictures | None,
    counts: Counter[str],
) -> Iterator[Sample]:
    """The samples in the order of the labels; what happens to each image is counted.

    ``counts`` gets ``images`` and ``boxes`` exported, of these images those ``empty`` of boxes
    and ``rewritten``; and those not exported: ``errors`` and ``left_out``.

    Raises:
        ValueError: a label is no box of its image, the shards lack an image or have it in
            another size, or nothing is left; the message names the file and the image.
    """
    columns = (*COLUMNS, *MAP_COLUMNS) if config.format == "masks" else COLUMNS
    for group in groups:
        for rows in batches(group, columns):
            for row in rows:
                try:
                    sample = _sample(row, config, selection, pictures, counts)
                except ValueError as error:
                    raise ValueError(f"{group.uri}: {row['image_id']!r}: {error}") from error
                if sample is not None:
                    counts["images"] += 1
                    counts["boxes"] += len(sample.boxes)
                    counts["empty"] += not sample.boxes
                    yield sample
    if not counts["images"]:
        raise ValueError(f"no image is left to export ({dict(counts)})")


def batches(
    group: RowGroup, columns: Sequence[str], expected: pa.Schema = schema.LABELS
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a row group of labels, as many at a time as become Python objects at once."""
    table: pa.Table = shards.read(group, columns, expected)
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield batch.to_pylist()


def _sample(
    row: dict[str, Any],
    config: ExportConfig,
    selection: Selection,
    pictures: Pictures | None,
    counts: Counter[str],
) -> Sample | None:
    if row["error"] is not None:
        counts["errors"] += 1
        return None
    found = _boxes(row)
    kept = selection.boxes(found)
    if not selection.has_image(found, kept):
        counts["left_out"] += 1
        return None
    size = (row["height"], row["width"])
    picture = None
    if pictures is not None:
        picture = find_picture(row, pictures, counts)
        if picture is None:
            return None
    return Sample(
        image_id=row["image_id"],
        name=name_of(row["image_id"], config),
        size=size,
        boxes=kept,
        checkpoint_sha256=row["checkpoint_sha256"],
        picture=picture,
        image_suffix=config.image_suffix if picture is None else picture.suffix,
        activation_map=row.get("activation_map"),
        threshold=row.get("threshold"),
    )


def find_picture(row: dict[str, Any], pictures: Pictures, counts: Counter[str]) -> Picture | None:
    """The image of a label row; None, logged and counted, where it cannot be written upright.

    Raises:
        ValueError: as `Pictures.find`.
    """
    try:
        picture = pictures.find(row["shard"], row["image_id"], (row["height"], row["width"]))
    except images.ImageError as error:  # too large to be turned, say
        logger.warning(names.printable(f"{row['image_id']}: not exported: {error}"))
        counts["errors"] += 1
        return None
    counts["rewritten"] += picture.is_rewritten
    return picture


def name_of(image_id: str, config: ExportConfig) -> str:
    """Path of an image's files, without extension."""
    if not config.with_images:
        names.check(image_id, "image_id")
        return image_id
    # In WebDataset, a name's first dot begins the extension.
    name = names.file_path(image_id, keep_dots=config.format != "webdataset")
    if config.format == "yolo":  # readers look for labels where a path's last "images" was
        name = re.sub(r"(^|/)images(?=/)", r"\1~69mages", name)
    return name


def _boxes(row: dict[str, Any]) -> list[Box]:
    """The boxes of a label row; none where it has an error.

    Raises:
        ValueError: a box leaves the image or has no area, or a score is none.
    """
    if row["error"] is not None:
        return []
    width, height = row["width"], row["height"]
    if not width or not height or row["pseudo_boxes"] is None:
        raise ValueError("a label without error must have width, height and pseudo_boxes")
    found = [Box(**box) for box in row["pseudo_boxes"]]
    for box in found:
        is_inside = 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height
        if not (is_inside and 0 <= box.score <= 1):
            raise ValueError(f"{box} is no box of an image of {width}x{height} px")
    return found
