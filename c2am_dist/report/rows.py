"""Label rows joined with what the shards know of their images, a file at a time."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema, storage
from c2am_dist.data import shards
from c2am_dist.method import boxes

Box = tuple[int, int, int, int]
_COLUMNS = [
    name
    for name in schema.LABELS.names
    if name not in ("activation_map", "background_cue", *schema.LATER_LABEL_COLUMNS)
]
_MASK_COLUMNS = [name for name in schema.PSEUDO_MASKS.names if name != "pseudo_mask"]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A label row without its map, and what is known of its image."""

    place: int
    """Its number among all rows."""
    uri: str
    """Its label file."""
    label: dict[str, Any]
    """Its columns (schema.LABELS or schema.PSEUDO_MASKS), maps and masks left out."""
    truths: list[Box] | None
    """Ground-truth boxes; None where unknown."""
    name: str | None
    """The image's class, or all its classes, where the shards know them."""

    @property
    def image_id(self) -> str:
        return self.label["image_id"]

    @property
    def boxes(self) -> list[Box]:
        found = self.label.get("pseudo_boxes") or []
        return [(box["x0"], box["y0"], box["x1"], box["y1"]) for box in found]

    def iou(self) -> float | None:
        """Best IoU of the first box, 0 without one; None where no box of the image is known.

        Half-open pixels of the image, as `stored_gt_known_loc` counts.
        """
        if not self.truths:
            return None
        if not self.boxes:
            return 0.0
        best = boxes.iou(np.array(self.boxes[:1]), np.array(self.truths)).max()
        return float(best)


def files_by_name(uris: Sequence[str]) -> dict[str, list[str]]:
    """The shards that URIs name, by file name, which is how a label row names its shard."""
    found = defaultdict(list)
    for file in storage.expand(uris):
        found[storage.name(file.uri)].append(file.uri)
    return found


def scan(
    files: Sequence[storage.File],
    known: dict[str, list[str]],
    expected: pa.Schema = schema.LABELS,
) -> Iterator[Row]:
    """All label rows, in order; holds one row group and the boxes of one label file's images.

    Args:
        files: label files, or files of pseudo masks.
        known: shards by file name (`files_by_name`); those that rows name are read for boxes
            and classes, where they have any.
        expected: what the files are: ``schema.LABELS`` or ``schema.PSEUDO_MASKS``.

    Raises:
        ValueError: a file is not Parquet, lacks a column or has it in another type, or the
            shards of one name hold an image twice; names it.
    """
    place = 0
    columns = _COLUMNS if expected is schema.LABELS else _MASK_COLUMNS
    for file in files:
        shards.check_columns(file.uri, shards.read_schema(file.uri), columns, expected)
        names = _shard_names(file.uri)
        notes = _notes([uri for name in sorted(names) for uri in known.get(name, [])])
        for group in groups(file.uri):
            for label in shards.read(group, columns, expected).to_pylist():
                truths, name = notes.get(label["image_id"], (None, None))
                yield Row(place, file.uri, label, truths, name)
                place += 1


@storage.retrying
def _shard_names(uri: str) -> set[str]:
    """The shards that a label file speaks of."""
    with storage.open_input(uri) as source:
        table = pq.read_table(source, columns=["shard"])
    return set(shards.conform(uri, table, ["shard"], schema.LABELS)["shard"].unique().to_pylist())


def groups(uri: str) -> list[shards.RowGroup]:
    """The row groups of a label file."""
    return shards.index([uri], columns=("image_id",), expected=schema.LABELS, allow_empty=True)


def wanted_labels(
    uri: str, wanted: Collection[str], columns: Sequence[str], expected: pa.Schema
) -> Iterator[dict[str, Any]]:
    """The rows of a label file whose ids are wanted, of which alone large columns are decoded.

    Args:
        uri: the file.
        wanted: ids.
        columns: what to read, ``image_id`` among them.
        expected: ``schema.LABELS`` or ``schema.PSEUDO_MASKS``.
    """
    for group in groups(uri):
        ids = shards.read(group, ["image_id"], expected)["image_id"].to_pylist()
        here = np.flatnonzero([image_id in wanted for image_id in ids])
        if len(here):
            yield from shards.read(group, columns, expected, rows=here).to_pylist()


def _notes(uris: Sequence[str]) -> dict[str, tuple[list[Box] | None, str | None]]:
    """Boxes and class of every image of some shards, by id.

    Raises:
        ValueError: an id comes twice, so that nothing says which image is meant; names it.
    """
    found = {}
    for uri in uris:
        columns = _there(uri, ("image_id", "boxes", "label", "labels"))
        for group in shards.index([uri], columns=("image_id",), allow_empty=True):
            for row in shards.read(group, columns).to_pylist():
                truths = row.get("boxes")
                truths = None if truths is None else [(a, b, c, d) for a, b, c, d in truths]
                if row["image_id"] in found:
                    raise ValueError(f"{uri}: image_id {row['image_id']!r} is in the shards twice")
                name = row.get("label") or ", ".join(row.get("labels") or [])
                found[row["image_id"]] = (truths, name or None)
    return found


def _there(uri: str, columns: Sequence[str]) -> list[str]:
    known = shards.read_schema(uri).names
    return [name for name in columns if name in known]


def wanted_images(
    uri: str, wanted: Collection[str], columns: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a shard whose ids are wanted, a row group at a time.

    Args:
        uri: the shard.
        wanted: ids.
        columns: what to read; ``image_id`` always, others where the shard has them.
    """
    columns = _there(uri, columns)
    for group in shards.index([uri], allow_empty=True):
        ids = shards.read(group, ["image_id"])["image_id"].to_pylist()
        if any(image_id in wanted for image_id in ids):
            rows = shards.read(group, columns)
            yield [row for row in rows.to_pylist() if row["image_id"] in wanted]
