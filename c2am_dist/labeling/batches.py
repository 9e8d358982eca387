"""Batches of images as rows of a table: Ray Data passes rows on whole.

It gives an actor that has a GPU so many rows at a time, never "what came", and would gather and
cut images to that number, across shards. Of rows that are batches it is given one.
"""

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from c2am_dist.data.decode import as_binary

Batch = dict[str, np.ndarray]
"""Arrays over the images of a batch, by name: texts, bytes, or numbers of any shape."""


def pack(batch: Batch) -> pa.Table:
    """The batch as a table of one row; large arrays are not copied."""
    columns: dict[str, pa.Array] = {}
    for name, array in batch.items():
        if array.dtype.kind in "OU":
            is_bytes = len(array) > 0 and isinstance(array[0], bytes)
            kind = pa.large_binary() if is_bytes else pa.string()
            columns[name] = pa.array([array.tolist()], pa.list_(kind))
        else:
            columns[name] = as_binary(np.ascontiguousarray(array))
            columns[f"{name}.shape"] = pa.array([array.shape], pa.list_(pa.int64()))
            columns[f"{name}.dtype"] = pa.array([array.dtype.str])
    return pa.table(columns)


def split(batch: Batch) -> Iterator[Batch]:
    """The batch image by image: batches of one."""
    for i in range(len(next(iter(batch.values())))):
        yield {name: array[i : i + 1] for name, array in batch.items()}


def unpack(table: pa.Table) -> Iterator[Batch]:
    """The batches of a table, a row each; numbers are not copied and not writable."""
    for block in table.to_batches():
        for row in range(block.num_rows):
            yield {
                name: _array(block, name, row)
                for name in block.schema.names
                if not name.endswith((".shape", ".dtype"))
            }


def _array(block: pa.RecordBatch, name: str, row: int) -> np.ndarray:
    if f"{name}.shape" not in block.schema.names:
        return np.array(block[name][row].as_py(), dtype=object)
    dtype, shape = (block[f"{name}.{kind}"][row].as_py() for kind in ("dtype", "shape"))
    _, ends, data = block[name].buffers()  # a value by itself would be a copy
    start = np.frombuffer(ends, np.int64)[block[name].offset + row]
    return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
