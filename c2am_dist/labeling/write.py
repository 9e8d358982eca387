"""Label rows to label files, a file a shard.

The driver only counts rows until a shard is complete and hands the references of its blocks to
a task that writes them: no row passes through it. That needs no shuffle and no state, because a
task decodes a run of row groups of one shard, every later stage turns one block into one block,
and the order is preserved.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from tqdm import tqdm

from c2am_dist.data import shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.row_files import PlannedFile, write_file
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.pipeline import Work

WRITES_IN_FLIGHT = 4
"""Label files written at once; more would let blocks pile up behind a slow store."""


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
    group_rows = defaultdict[str, list[int]](list)
    for group in row_groups:
        num_rows[group.uri] += group.num_rows
        group_rows[group.uri].append(group.num_rows)
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
            cuts = group_rows[file.shard] if work.keeps_row_groups else []
            writing.append(write_file.remote(file, work.schema, work.metadata, cuts, *refs))
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
