"""A file of rows, written whole or read back: what the last tasks do.

Without torch, as decode.py.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from c2am_dist import storage
from c2am_dist.data.label_set import LabelFile

SOME_CPU = 0.01
"""Reserved by what needs no core of its own; nothing at all would let it run on a head node that
offers no CPU, to be left alone."""


class PlannedFile(NamedTuple):
    """A shard and where its labels go."""

    shard: str
    name: str
    """Path of the label file below the folder."""
    uri: str


# It mostly waits for storage, whose hiccups are worth another try: writing is idempotent.
@ray.remote(num_cpus=SOME_CPU, retry_exceptions=[OSError])  # type: ignore
def write_file(
    file: PlannedFile, schema: pa.Schema, metadata: Mapping[str, str], *blocks: pa.Table
) -> LabelFile:
    """Writes the rows of a shard, and says what ``_SUCCESS`` will list of them."""
    tables = [block.cast(schema) for block in blocks] or [schema.empty_table()]
    table = pa.concat_tables(tables)
    # One chunk, since Parquet's pages end where chunks do: the same rows are the same bytes.
    table = table.combine_chunks().replace_schema_metadata(metadata)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    storage.write_bytes(file.uri, data)
    return _label_file(file.name, table, data)


@ray.remote(num_cpus=0.5, retry_exceptions=[OSError])  # type: ignore
def describe(file: PlannedFile, digests: Mapping[str, str]) -> LabelFile:
    """What ``_SUCCESS`` lists of a file that is there; raises as :func:`write.check`."""
    data = storage.read_bytes(file.uri)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
            table = parquet.read(columns=["image_id", "error"])
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file.uri}: not a label file ({error})") from error
    for name, value in digests.items():
        actual = metadata.get(name.encode(), b"").decode(errors="replace")
        if actual != value:
            shown = repr(actual[:80]) if actual else "absent"
            raise ValueError(
                f"{file.uri}: its {name.removeprefix('c2am_dist.')} is {shown}, not {value}"
            )
    return _label_file(file.name, table, data)


def _label_file(name: str, table: pa.Table, data: bytes) -> LabelFile:
    return LabelFile(
        name=name,
        num_rows=table.num_rows,
        num_errors=table.num_rows - table["error"].null_count,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
