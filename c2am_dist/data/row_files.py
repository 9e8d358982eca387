"""Files of rows, one a shard: where they go, which are done; written whole or read back by tasks.

Labels, predictions and pseudo masks are such files. Without torch, which these tasks do without.
"""

import dataclasses
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from c2am_dist import names, storage
from c2am_dist.data.label_set import LabelFile
from c2am_dist.storage import File

CHECKS_IN_FLIGHT = 64
"""Finished files read back at once."""
SOME_CPU = 0.01
"""Reserved by what needs no core of its own; nothing at all would let it run on a head node that
offers no CPU, to be left alone."""


class PlannedFile(NamedTuple):
    """A shard and where its labels go."""

    shard: str
    name: str
    """Path of the label file below the folder."""
    uri: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """How a job went that makes a row of every image."""

    num_images: int
    num_new: int
    """Of these, the images whose rows were made now and not by an earlier job that was cut off."""
    num_errors: int
    """Images of which nothing could be made; their rows say why."""
    num_files: int
    elapsed_s: float

    @property
    def error_fraction(self) -> float:
        return self.num_errors / self.num_images


def report(files: Sequence[LabelFile], *, num_new: int, started: float) -> LabelReport:
    """The report of a job that has these files and began at ``started``, by the monotonic clock."""
    return LabelReport(
        num_images=sum(file.num_rows for file in files),
        num_new=num_new,
        num_errors=sum(file.num_errors for file in files),
        num_files=len(files),
        elapsed_s=time.monotonic() - started,
    )


def plan(files: Sequence[File], output: str) -> list[PlannedFile]:
    """Where each shard's labels go: its path below the folder all shards lie in.

    Raises:
        ValueError: the path leads out of it, as an object's key can.
    """
    parts = [file.uri.split("/") for file in files]
    columns = zip(*(path[:-1] for path in parts), strict=False)
    common = list(itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    root, planned = storage.absolute(output), []
    for file, path in zip(files, parts, strict=True):
        name = "/".join(path[len(common) :])
        names.check(name, "shard")
        name = name if name.endswith(".parquet") else f"{name}.parquet"
        planned.append(PlannedFile(file.uri, name, storage.join(root, name)))
    return planned


def split_done(planned: Sequence[PlannedFile]) -> tuple[list[PlannedFile], list[PlannedFile]]:
    """Those whose label file is there, which is whole then, and those still to label."""
    roots = {file.uri.removesuffix(file.name) for file in planned}
    there = {found.uri for root in roots if storage.exists(root) for found in storage.walk(root)}
    done = [file for file in planned if file.uri in there]
    return done, [file for file in planned if file.uri not in there]


def check(done: Sequence[PlannedFile], metadata: Mapping[str, str]) -> list[LabelFile]:
    """What ``_SUCCESS`` lists of label files that an earlier job has finished.

    Args:
        done: the files.
        metadata: of the job's files, of which the digests must agree.

    Raises:
        ValueError: a file is not a label file of this checkpoint and config; names it.
    """
    digests = {name: value for name, value in metadata.items() if name.endswith("_sha256")}
    checking, found = deque[ray.ObjectRef](), []
    for file in done:
        checking.append(describe.remote(file, digests))
        if len(checking) > CHECKS_IN_FLIGHT:
            found.append(ray.get(checking.popleft()))
    return found + ray.get(list(checking))


# It mostly waits for storage, whose hiccups are worth another try: writing is idempotent.
@ray.remote(num_cpus=SOME_CPU, retry_exceptions=[OSError])  # type: ignore
def write_file(
    file: PlannedFile,
    schema: pa.Schema,
    metadata: Mapping[str, str],
    group_rows: Sequence[int],
    *blocks: pa.Table,
) -> LabelFile:
    """:func:`write_rows`, as a task of its own."""
    return write_rows(file, schema, metadata, group_rows, *blocks)


def write_rows(
    file: PlannedFile,
    schema: pa.Schema,
    metadata: Mapping[str, str],
    group_rows: Sequence[int],
    *blocks: pa.Table,
) -> LabelFile:
    """Writes the rows of a shard, and says what ``_SUCCESS`` will list of them.

    Args:
        file: where.
        schema: of the rows.
        metadata: of the file.
        group_rows: rows of each row group, such as the shard's own, so that a reader of both finds
            the same rows in each; one row group if empty.
        blocks: the rows.
    """
    tables = [block.cast(schema) for block in blocks] or [schema.empty_table()]
    table = pa.concat_tables(tables)
    # One chunk, since Parquet's pages end where chunks do: the same rows are the same bytes.
    table = table.combine_chunks().replace_schema_metadata(metadata)
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        start = 0
        for num_rows in group_rows or [max(1, table.num_rows)]:
            writer.write_table(table.slice(start, num_rows), row_group_size=num_rows)
            start += num_rows
    data = buffer.getvalue().to_pybytes()
    storage.write_bytes(file.uri, data)
    return _label_file(file.name, table, data)


@ray.remote(num_cpus=0.5, retry_exceptions=[OSError])  # type: ignore
def describe(file: PlannedFile, digests: Mapping[str, str]) -> LabelFile:
    """What ``_SUCCESS`` lists of a file that is there; raises as :func:`check`."""
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
