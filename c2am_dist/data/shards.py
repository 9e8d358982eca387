"""Image shards as lists of row groups, the unit in which they are read."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema, storage


@dataclasses.dataclass(frozen=True, slots=True)
class RowGroup:
    """The first ``num_rows`` rows of one row group of a Parquet file."""

    uri: str
    index: int
    num_rows: int
    num_bytes: int = 0
    """What the columns it was indexed for take in the file, all rows of them."""


def index(
    uris: Sequence[str],
    *,
    columns: Sequence[str] = ("image_id", "image"),
    allow_empty: bool = False,
) -> list[RowGroup]:
    """The row groups of all shards that URIs name, in order; checks that they can be read.

    Args:
        uris: files, folders and globs.
        columns: what must be there, with the types of ``schema.SHARD``.
        allow_empty: return no row group, rather than raise, when there is no row.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a file is not Parquet, lacks a column or has one of another type, or all
            files together hold no row; the message names the file and the column.
    """
    files = storage.expand(uris)
    with ThreadPoolExecutor(16) as pool:  # footers over the network are latency, not work
        found = list(pool.map(lambda file: _row_groups(file.uri, columns), files))
    row_groups = [group for groups in found for group in groups]
    if not row_groups and not allow_empty:
        raise ValueError(f"{', '.join(uris)}: the shards hold no image")
    return row_groups


@storage.retrying
def _row_groups(uri: str, columns: Sequence[str]) -> list[RowGroup]:
    filesystem, path = storage.resolve(uri)
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            metadata, arrow_schema = file.metadata, file.schema_arrow
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri}: not a Parquet file ({error})") from error
    check_columns(uri, arrow_schema, columns)
    chosen = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in columns]
    found = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [sum(group.column(i).total_compressed_size for i in chosen) for group in found]
    return [
        RowGroup(uri, i, group.num_rows, size)
        for i, (group, size) in enumerate(zip(found, sizes, strict=True))
        if group.num_rows
    ]


def check_columns(uri: str, arrow_schema: pa.Schema, columns: Sequence[str]) -> None:
    """Raises ValueError when a column of schema.SHARD is absent or of another type."""
    for name in columns:
        expected = schema.SHARD.field(name).type
        if name not in arrow_schema.names:
            raise ValueError(f"{uri}: column {name!r} is missing")
        actual = arrow_schema.field(name).type
        if actual != expected and _plain(actual) != _plain(expected):
            raise ValueError(f"{uri}: column {name!r} is {actual}, expected {expected}")


def _plain(kind: pa.DataType) -> str:
    """A type's name without the large_ variants, which hold the same values."""
    return str(kind).replace("large_", "").replace("element: ", "").replace("item: ", "")


@storage.retrying
def read(group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """The rows of a row group; ``columns`` in schema.SHARD's types."""
    filesystem, path = storage.resolve(group.uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
    table = table.select(list(columns)).slice(0, group.num_rows)
    return table.cast(pa.schema([schema.SHARD.field(name) for name in columns]))
