"""Label rows to label files, a file a shard.

The driver only counts rows until a shard is complete and hands the references of its blocks to
a task that writes them: no row passes through it. That needs no shuffle and no state, because a
task decodes a run of row groups of one shard, every later stage turns one block into one block,
and the order is preserved.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
from tqdm import tqdm

from c2am_dist import names, storage
from c2am_dist.data import shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.files import PlannedFile, describe, write_file
from c2am_dist.labeling.pipeline import Work
from c2am_dist.storage import File

WRITES_IN_FLIGHT = 4
"""Label files written at once; more would let blocks pile up behind a slow store."""
CHECKS_IN_FLIGHT = 64
"""Finished label files read back at once."""


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


def index(file: PlannedFile) -> list[RowGroup]:
    """The row groups of its shard; raises as :func:`shards.index`, but may be empty."""
    return shards.index([file.shard], allow_empty=True)


def label_shards(
    files: Sequence[PlannedFile], row_groups: Sequence[RowGroup], work: Work
) -> list[LabelFile]:
    """Labels shards and writes each label file once its last block is there.

    Args:
        files: the shards.
        row_groups: theirs, in this order.
        work: what labeling them is.
    """
    num_rows = Counter({file.shard: 0 for file in files})
    for group in row_groups:
        num_rows[group.uri] += group.num_rows
    blocks = _blocks(row_groups, work)
    written, writing = [], deque[ray.ObjectRef]()
    with tqdm(total=num_rows.total(), unit=" images", disable=None) as progress:
        for file in files:
            refs, num_missing = [], num_rows[file.shard]
            while num_missing > 0:
                ref, num_block_rows = next(blocks)
                refs.append(ref)
                num_missing -= num_block_rows
                progress.update(num_block_rows)
            assert num_missing == 0, "a block spans two shards"
            writing.append(write_file.remote(file, work.schema, work.metadata, *refs))
            if len(writing) > WRITES_IN_FLIGHT:
                written.append(ray.get(writing.popleft()))
    assert next(blocks, None) is None, "more rows than images"
    return written + ray.get(list(writing))


def _blocks(row_groups: Sequence[RowGroup], work: Work) -> Iterator[tuple[Any, int]]:
    """References to the blocks of label rows, in order, and how many rows each has."""
    if not row_groups:
        return
    for bundle in pipeline.stream(row_groups, work).iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.num_rows or 0
