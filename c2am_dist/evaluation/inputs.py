"""Label files and annotation shards: checked on the driver, joined by image_id in tasks."""

import dataclasses
import re
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
_METHOD = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NOT_METHODS = ("centre", "predictions")
"""Entries of the metrics that are of no label set."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive label rows of one row group."""

    uri: str
    row_group: int
    start: int
    num_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class LabelRows:
    """The rows of label files before they are read."""

    units: list[Unit]
    ids: pa.ChunkedArray
    method: str
    """Which method labeled, such as ``c2am``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Annotations:
    """What is known of the images, without their masks, and where the masks are."""

    table: pa.Table
    """image_id, width, height, boxes, split; ``group`` and ``row`` say where a mask lies;
    ``class_index`` (null without label) and ``class_rank`` (of :func:`predictions.join`)."""
    groups: list[RowGroup]
    """The row groups that ``group`` counts."""
    mask_uris: frozenset[str]
    """Shards with a mask column."""
    classes: tuple[str, ...] = ()
    """The labels that ``class_index`` counts, sorted; () where they were not asked for."""


def read_annotations(uris: Sequence[str], *, with_classes: bool = False) -> Annotations:
    """The annotations of all shards.

    Args:
        uris: shards.
        with_classes: read the labels, too, whose column must be there then.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a column is missing or of another type, an id comes twice, a box has no
            area, or there is no row; the message names the file, and the column or the id.
    """
    columns = [*_ANNOTATION_COLUMNS, *(["label"] if with_classes else [])]
    groups = shards.index(uris, columns=columns)
    files = list(dict.fromkeys(group.uri for group in groups))
    with ThreadPoolExecutor(16) as pool:  # mostly latency, over a network
        extras = dict(zip(files, pool.map(_optional_columns, files), strict=True))
        tables = list(
            pool.map(lambda i: _read_group(groups[i], i, columns, extras), range(len(groups)))
        )
    table, classes = _with_class_index(pa.concat_tables(tables))
    table = table.append_column("class_rank", pa.nulls(len(table), pa.int8()))
    refuse_duplicates(table["image_id"], uris)
    mask_uris = frozenset(uri for uri, found in extras.items() if "mask" in found)
    return Annotations(table, groups, mask_uris, classes)


def _with_class_index(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """The table with ``class_index`` in place of ``label``, and the labels it counts."""
    if "label" not in table.column_names:
        return table.append_column("class_index", pa.nulls(len(table), pa.int32())), ()
    classes = sorted(table["label"].drop_null().unique().to_pylist())
    index = pc.index_in(table["label"], value_set=pa.array(classes, pa.string()))  # type: ignore
    table = table.drop_columns(["label"]).append_column("class_index", index)
    return table, tuple(classes)


def _optional_columns(uri: str) -> list[str]:
    arrow_schema = shards.read_schema(uri)
    columns = [name for name in ("split", "mask") if name in arrow_schema.names]
    shards.check_columns(uri, arrow_schema, columns)
    return columns


def _read_group(
    group: RowGroup, index: int, columns: Sequence[str], extras: dict[str, list[str]]
) -> pa.Table:
    has_split = "split" in extras[group.uri]
    table = shards.read(group, [*columns, *(["split"] if has_split else [])])
    _refuse_flat_boxes(group.uri, table)
    if not has_split:
        table = table.append_column("split", pa.nulls(len(table), pa.string()))
    table = table.append_column("group", pa.array(np.full(len(table), index, np.int32)))
    return table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))


def _refuse_flat_boxes(uri: str, table: pa.Table) -> None:
    """Raises ValueError naming the image of a box that has no area, or of which a part is null."""
    lists = table["boxes"].combine_chunks()
    boxes = lists.flatten()
    parts = [pc.list_element(boxes, i).cast(pa.float64()) for i in range(4)]  # type: ignore
    x0, y0, x1, y1 = (part.to_numpy(zero_copy_only=False) for part in parts)  # null: NaN
    flat = np.flatnonzero(~((x0 < x1) & (y0 < y1)))
    if len(flat):
        row = pc.list_parent_indices(lists)[flat[0]].as_py()  # type: ignore
        image_id, box = table["image_id"][row].as_py(), boxes[flat[0]].as_py()
        raise ValueError(f"{uri}: image {image_id!r}: the annotated box {box} has no area")


def plan(uris: Sequence[str], *, allow_incomplete: bool) -> LabelRows:
    """All label rows cut into units, their ids, and the method that labeled.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_annotations`, of label files; or as
            :func:`label_set.expand`; or files are of two methods, or one is none.
    """
    files = [f.uri for f in label_set.expand(uris, allow_incomplete=allow_incomplete)]
    with ThreadPoolExecutor(16) as pool:
        planned = list(pool.map(_plan_file, files))
    units = [unit for rows in planned for unit in rows.units]
    if not units:
        raise ValueError(f"{', '.join(uris)}: the label files hold no row")
    for uri, rows in zip(files, planned, strict=True):
        if rows.method != planned[0].method:
            raise ValueError(
                f"{uri}: labels of method {rows.method!r}, but {files[0]} is of "
                f"{planned[0].method!r}: evaluate one after the other"
            )
    ids = pa.chunked_array([chunk for rows in planned for chunk in rows.ids.chunks])
    refuse_duplicates(ids, uris)
    return LabelRows(units, ids, planned[0].method)


@storage.retrying
def _plan_file(uri: str) -> LabelRows:
    arrow_schema = shards.read_schema(uri)
    shards.check_columns(uri, arrow_schema, _label_columns(arrow_schema), schema.LABELS)
    method = _method(uri, arrow_schema)
    with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ids = file.read(columns=["image_id"])
    ids = shards.conform(uri, ids, ["image_id"], schema.LABELS)["image_id"]
    units = [
        Unit(uri, index, start, min(UNIT_ROWS, size - start))
        for index, size in enumerate(sizes)
        for start in range(0, size, UNIT_ROWS)
    ]
    return LabelRows(units, ids, method)


def _method(uri: str, arrow_schema: pa.Schema) -> str:
    """Which method a label file's metadata name; those that name none are older, and C2AM's."""
    name = (arrow_schema.metadata or {}).get(b"c2am_dist.method", b"c2am").decode(errors="replace")
    if not _METHOD.fullmatch(name) or name in _NOT_METHODS:
        raise ValueError(f"{uri}: metadata c2am_dist.method is {name!r:.80}, the name of no method")
    return name


def _label_columns(arrow_schema: pa.Schema) -> list[str]:
    has_map = "activation_map" in arrow_schema.names
    return [*_LABEL_COLUMNS, *(["activation_map"] if has_map else [])]


def refuse_duplicates(ids: pa.ChunkedArray, uris: Sequence[str]) -> None:
    """Raises ValueError naming an id that comes more than once."""
    num_distinct = len(ids.unique())
    if num_distinct == len(ids):
        return
    counts = ids.value_counts().to_pylist()
    twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
    raise ValueError(
        f"{', '.join(uris)}: image_id {twice!r} comes more than once, "
        f"{len(ids)} rows hold {num_distinct} ids"
    )


def refuse_unlabeled(annotations: Annotations, ids: pa.ChunkedArray) -> None:
    """Raises ValueError naming an image among the ids that has boxes and no label."""
    table = annotations.table
    has_boxes = pc.greater(pc.list_value_length(table["boxes"]), 0).fill_null(False)  # type: ignore
    is_scored = pc.and_(has_boxes, pc.is_in(table["image_id"], value_set=ids))  # type: ignore
    lacking = table.filter(pc.and_(is_scored, table["class_index"].is_null()))  # type: ignore
    if len(lacking):
        row = lacking.slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"{annotations.groups[row['group']].uri}: image {row['image_id']!r} has no label, as "
            f"have {len(lacking)} of the images scored: there are no figures of classes"
        )


def count_absent(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> int:
    """How many of the ids are not among the others."""
    return places(ids, among).null_count


def places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray:
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
    unknown), ``split``, ``class_index``, ``class_rank``, ``activation_map`` and ``mask``
    (encoded, or None).
    """
    found = places(labels["image_id"], annotations.table["image_id"])
    is_known = found.is_valid()
    known = annotations.table.take(found.filter(is_known)).to_pylist()
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
            "class_index": note["class_index"],
            "class_rank": note["class_rank"],
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
