"""Label files and annotation shards: checked on the driver, joined by image_id in tasks."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from c2am_dist import schema, storage
from c2am_dist.data import label_set, shards
from c2am_dist.data.shards import RowGroup

UNIT_ROWS = 512
"""Label rows scored by one task: about a second's work."""
_LABEL_COLUMNS = ("image_id", "width", "height", "pseudo_boxes", "error")
_ANNOTATION_COLUMNS = ("image_id", "width", "height", "boxes")


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive label rows of one row group."""

    uri: str
    row_group: int
    start: int
    num_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class Annotations:
    """What is known of the images, without their masks, and where the masks are."""

    table: pa.Table
    """image_id, width, height, boxes, split; ``group`` and ``row`` say where a mask lies."""
    groups: list[RowGroup]
    """The row groups that ``group`` counts."""
    mask_uris: frozenset[str]
    """Shards with a mask column."""


def read_annotations(uris: Sequence[str]) -> Annotations:
    """The annotations of all shards.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a column is missing or of another type, an id comes twice, or there is
            no row; the message names the file, and the column or the id.
    """
    groups = shards.index(uris, columns=_ANNOTATION_COLUMNS)
    files = list(dict.fromkeys(group.uri for group in groups))
    with ThreadPoolExecutor(16) as pool:  # mostly latency, over a network
        extras = dict(zip(files, pool.map(_optional_columns, files), strict=True))
        tables = list(pool.map(lambda i: _read_group(groups[i], i, extras), range(len(groups))))
    table = pa.concat_tables(tables)
    _refuse_duplicates(table["image_id"], uris)
    mask_uris = frozenset(uri for uri, columns in extras.items() if "mask" in columns)
    return Annotations(table, groups, mask_uris)


def _optional_columns(uri: str) -> list[str]:
    arrow_schema = shards.read_schema(uri)
    columns = [name for name in ("split", "mask") if name in arrow_schema.names]
    shards.check_columns(uri, arrow_schema, columns)
    return columns


def _read_group(group: RowGroup, index: int, extras: dict[str, list[str]]) -> pa.Table:
    has_split = "split" in extras[group.uri]
    table = shards.read(group, [*_ANNOTATION_COLUMNS, *(["split"] if has_split else [])])
    if not has_split:
        table = table.append_column("split", pa.nulls(len(table), pa.string()))
    table = table.append_column("group", pa.array(np.full(len(table), index, np.int32)))
    return table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))


def plan(uris: Sequence[str], *, allow_incomplete: bool) -> tuple[list[Unit], pa.ChunkedArray]:
    """All label rows cut into units, and their ids.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_annotations`, of label files; or as
            :func:`label_set.expand`.
    """
    files = [f.uri for f in label_set.expand(uris, allow_incomplete=allow_incomplete)]
    with ThreadPoolExecutor(16) as pool:
        planned = list(pool.map(_plan_file, files))
    units = [unit for file_units, _ in planned for unit in file_units]
    if not units:
        raise ValueError(f"{', '.join(uris)}: the label files hold no row")
    ids = pa.chunked_array([chunk for _, file_ids in planned for chunk in file_ids.chunks])
    _refuse_duplicates(ids, uris)
    return units, ids


@storage.retrying
def _plan_file(uri: str) -> tuple[list[Unit], pa.ChunkedArray]:
    arrow_schema = shards.read_schema(uri)
    shards.check_columns(uri, arrow_schema, _label_columns(arrow_schema), schema.LABELS)
    with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ids = file.read(columns=["image_id"])
    ids = shards.conform(uri, ids, ["image_id"], schema.LABELS)["image_id"]
    units = [
        Unit(uri, index, start, min(UNIT_ROWS, size - start))
        for index, size in enumerate(sizes)
        for start in range(0, size, UNIT_ROWS)
    ]
    return units, ids


def _label_columns(arrow_schema: pa.Schema) -> list[str]:
    has_map = "activation_map" in arrow_schema.names
    return [*_LABEL_COLUMNS, *(["activation_map"] if has_map else [])]


def _refuse_duplicates(ids: pa.ChunkedArray, uris: Sequence[str]) -> None:
    num_distinct = len(ids.unique())
    if num_distinct == len(ids):
        return
    counts = ids.value_counts().to_pylist()
    twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
    raise ValueError(
        f"{', '.join(uris)}: image_id {twice!r} comes more than once, "
        f"{len(ids)} rows hold {num_distinct} ids"
    )


def count_absent(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> int:
    """How many of the ids are not among the others."""
    return _places(ids, among).null_count


def _places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where each id is among the others; null where it is not."""
    return pc.index_in(ids.cast(pa.string()), value_set=among)  # type: ignore


@storage.retrying
def read_unit(unit: Unit, annotations: Annotations) -> list[dict[str, Any]]:
    """The unit's label rows that have annotations, joined with them as by :func:`join`."""
    with storage.open_input(unit.uri) as source, pq.ParquetFile(source) as file:
        columns = _label_columns(file.schema_arrow)
        labels = file.read_row_group(unit.row_group, columns=columns)
    labels = labels.slice(unit.start, unit.num_rows)
    return join(shards.conform(unit.uri, labels, columns, schema.LABELS), annotations)


def join(labels: pa.Table, annotations: Annotations) -> list[dict[str, Any]]:
    """The label rows that have annotations, joined with them.

    Each row holds ``image_id``, ``error``, ``pseudo_boxes``, ``size`` and ``label_size``
    ((height, width); the latter of the label, or of nulls), ``boxes`` (int n 4, or None where
    unknown), ``split``, ``activation_map`` and ``mask`` (encoded, or None).
    """
    places = _places(labels["image_id"], annotations.table["image_id"])
    is_known = places.is_valid()
    known = annotations.table.take(places.filter(is_known)).to_pylist()
    masks = _read_masks(known, annotations)
    return [
        {
            "image_id": label["image_id"],
            "error": label["error"],
            "pseudo_boxes": label["pseudo_boxes"],
            "activation_map": label.get("activation_map"),
            "label_size": (label["height"], label["width"]),
            "size": (note["height"], note["width"]),
            "boxes": note["boxes"],
            "split": note["split"],
            "mask": mask,
        }
        for label, note, mask in zip(labels.filter(is_known).to_pylist(), known, masks, strict=True)
    ]


def _read_masks(rows: Sequence[dict[str, Any]], annotations: Annotations) -> list[bytes | None]:
    """The encoded mask of each row, where it has one. Each row group is read once."""
    columns: dict[int, pa.ChunkedArray] = {}
    for index in {row["group"] for row in rows}:
        group = annotations.groups[index]
        if group.uri in annotations.mask_uris:
            columns[index] = shards.read(group, ["mask"])["mask"]
    return [
        columns[row["group"]][row["row"]].as_py() if row["group"] in columns else None
        for row in rows
    ]
