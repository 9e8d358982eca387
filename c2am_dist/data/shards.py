"""Image shards as lists of row groups, the unit in which they are read."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema, storage

MAX_ROW_GROUP_BYTES = 2 * 2**30
"""Most that a row group may take uncompressed, by its file's own account: it is read at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class RowGroup:
    """The first ``num_rows`` rows of one row group of a Parquet file."""

    uri: str
    index: int
    num_rows: int
    num_bytes: int = 0
    """What the columns it was indexed for take in the file, all rows of them."""
    first_box: int | None = None
    """Given, only the rows with a pseudo box count, and theirs begin here (see pseudo_boxes)."""


def index(
    uris: Sequence[str],
    *,
    columns: Sequence[str] = ("image_id", "image"),
    expected: pa.Schema = schema.SHARD,
    allow_empty: bool = False,
) -> list[RowGroup]:
    """The row groups of all shards that URIs name, in order; checks that they can be read.

    Args:
        uris: files, folders and globs.
        columns: what must be there, with the types of ``expected``.
        expected: what the files are: shards, or label files (``schema.LABELS``).
        allow_empty: return no row group, rather than raise, when there is no row.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a file is not Parquet, has a row group above `MAX_ROW_GROUP_BYTES`, lacks a
            column or has one of another type, or all files together hold no row; the message
            names the file and the column.
    """
    files = storage.expand(uris)
    with ThreadPoolExecutor(16) as pool:  # footers over the network are latency, not work
        found = list(pool.map(lambda file: _row_groups(file.uri, columns, expected), files))
    row_groups = [group for groups in found for group in groups]
    if not row_groups and not allow_empty:
        raise ValueError(f"{', '.join(uris)}: the shards hold no image")
    return row_groups


def _row_groups(uri: str, columns: Sequence[str], expected: pa.Schema) -> list[RowGroup]:
    metadata, arrow_schema = _footer(uri)
    check_columns(uri, arrow_schema, columns, expected)
    chosen = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in columns]
    found = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [sum(group.column(i).total_compressed_size for i in chosen) for group in found]
    return [
        RowGroup(uri, i, group.num_rows, size)
        for i, (group, size) in enumerate(zip(found, sizes, strict=True))
        if group.num_rows
    ]


def read_schema(uri: str) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        ValueError: it is none, or has a row group above `MAX_ROW_GROUP_BYTES`; names it.
    """
    return _footer(uri)[1]


@storage.retrying
def _footer(uri: str) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
            metadata, arrow_schema = file.metadata, file.schema_arrow
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri}: not a Parquet file ({error})") from error
    for i in range(metadata.num_row_groups):
        size_bytes = metadata.row_group(i).total_byte_size
        if size_bytes > MAX_ROW_GROUP_BYTES:
            raise ValueError(
                f"{uri}: row group {i} takes {size_bytes} bytes in memory, more than "
                f"{MAX_ROW_GROUP_BYTES}: write the file with smaller row groups"
            )
    return metadata, arrow_schema


def check_columns(
    uri: str,
    arrow_schema: pa.Schema,
    columns: Sequence[str],
    expected: pa.Schema = schema.SHARD,
) -> None:
    """Raises ValueError when a column is absent, twice there, or of another type than expected."""
    for name in columns:
        if name not in arrow_schema.names:
            raise ValueError(f"{uri}: column {name!r} is missing")
        if arrow_schema.names.count(name) > 1:
            raise ValueError(f"{uri}: column {name!r} is there twice")
        actual, wanted = arrow_schema.field(name).type, expected.field(name).type
        if _plain(actual) != _plain(wanted):
            raise ValueError(f"{uri}: column {name!r} is {actual}, expected {wanted}")


def _plain(kind: pa.DataType) -> str:
    """A type's name without what writers vary: large_ variants, list fields' names, nullness."""
    text = str(kind)
    for part in ("large_", "element: ", "item: ", " not null"):
        text = text.replace(part, "")
    return text


@storage.retrying
def read(
    group: RowGroup,
    columns: Sequence[str],
    expected: pa.Schema = schema.SHARD,
    *,
    rows: np.ndarray | None = None,
) -> pa.Table:
    """The rows of a row group, or some of them; ``columns`` in the types of ``expected``."""
    with storage.open_input(group.uri) as source, pq.ParquetFile(source) as file:
        table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
    table = table.slice(0, group.num_rows) if rows is None else table.take(pa.array(rows))
    return conform(group.uri, table, columns, expected)


@storage.retrying
def read_whole(uri: str, columns: Sequence[str], expected: pa.Schema = schema.SHARD) -> pa.Table:
    """All rows of a file; ``columns``, which should be small ones, in the types of ``expected``."""
    with storage.open_input(uri) as source, pq.ParquetFile(source) as file:
        table = file.read(columns=list(columns), use_threads=False)
    return conform(uri, table, columns, expected)


def refuse_duplicates(ids: pa.ChunkedArray, where: str) -> None:
    """Raises ValueError naming an image_id that comes more than once; it begins with ``where``."""
    if len(ids.unique()) == len(ids):
        return
    counts = ids.value_counts().to_pylist()
    twice = next(entry["values"] for entry in counts if entry["counts"] > 1)
    raise ValueError(f"{where}: image_id {twice!r} comes more than once")


def conform(
    uri: str, table: pa.Table, columns: Sequence[str], expected: pa.Schema = schema.SHARD
) -> pa.Table:
    """The columns of a table that was read from a file, in exactly the expected types.

    What a file holds must come through here before it becomes Python objects: it may claim a
    type of Ray Data's that unpickles its values then.

    Raises:
        ValueError: as `check_columns`, or there are nulls where none may be, or strings that
            are not UTF-8; the message names the file.
    """
    check_columns(uri, table.schema, columns, expected)
    try:
        table = table.select(list(columns))
        table = table.cast(pa.schema([expected.field(name) for name in columns]))
        table.validate(full=True)
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from error
    return table


def classes_of(row_groups: Sequence[RowGroup]) -> list[str]:
    """The distinct labels of the shards, sorted: the classifier's outputs in order.

    Raises:
        ValueError: an image has no label, the message names its file; or there is one class.
    """
    with ThreadPoolExecutor(16) as pool:  # mostly latency, over a network
        found = sorted(set().union(*pool.map(_labels_in, row_groups)))
    if len(found) < 2:
        raise ValueError(
            f"data.train: all images have the label {found[0]!r}; a classifier needs two"
        )
    return found


def classes_of_lists(row_groups: Sequence[RowGroup]) -> list[str]:
    """The distinct entries of the shards' label lists, sorted: a multi-label classifier's outputs.

    Raises:
        ValueError: an image has no list, or one with a nameless class, the message names it and
            its file; or no image has a class.
    """
    with ThreadPoolExecutor(16) as pool:
        found = sorted(set().union(*pool.map(_listed_in, row_groups)))
    if not found:
        raise ValueError("data.train: no image has a class (column 'labels')")
    return found


def _listed_in(group: RowGroup) -> set[str]:
    table = read(group, ["image_id", "labels"])
    lists = table["labels"].combine_chunks()
    if lists.null_count:
        first = lists.is_null().index(True).as_py()
        raise ValueError(
            f"{group.uri}: image {table['image_id'][first].as_py()!r} without labels, "
            f"one of {lists.null_count}"
        )
    names = set(lists.flatten().unique().to_pylist())
    if None in names:
        raise ValueError(f"{group.uri}: a class in column 'labels' has no name")
    return names


def count_nulls(uri: str, column: str, expected: pa.Schema = schema.SHARD) -> int:
    """The nulls in a column, from the file's footer; it is read only where that does not say."""
    metadata, arrow_schema = _footer(uri)
    check_columns(uri, arrow_schema, [column], expected)
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    number = 0
    for index in range(metadata.num_row_groups):
        found = metadata.row_group(index).column(paths.index(column)).statistics
        if found is None or not found.has_null_count:
            return read_whole(uri, [column], expected)[column].null_count
        number += found.null_count
    return number


def _labels_in(group: RowGroup) -> set[str]:
    labels = read(group, ["label"])["label"]
    if labels.null_count:
        raise ValueError(f"{group.uri}: {labels.null_count} images without a label")
    return set(labels.unique().to_pylist())
