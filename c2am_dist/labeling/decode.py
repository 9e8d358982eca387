"""Shards to batches of pixels: what decode tasks do.

Without torch, which such a task has no use for and takes seconds to load.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pyarrow as pa

from c2am_dist import names, storage
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling.batches import Batch, pack
from c2am_dist.method import images

COLUMNS = ("image_id", "image")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How images are decoded."""

    sizes_px: tuple[int, ...]
    """Sides of the squares that each becomes."""
    batch_size: int
    max_pixels: float
    labels: Literal["none", "label", "labels", "if any"] = "none"
    """Which column of classes to read, too; ``if any`` is ``label``, or nulls where there is
    none."""
    keeps_files: bool = False
    """Pass the encoded images on."""
    keep_aspect: bool = False
    """Cut the square out of the middle; else the image is squeezed into it."""


def decode(run: pa.Table, *, decoding: Decoding) -> Iterator[pa.Table]:
    """:func:`decode_run`, a row a batch."""
    yield from map(pack, decode_run(run, decoding))


def decode_run(run: pa.Table, decoding: Decoding) -> Iterator[Batch]:
    """The decoded images of a run, one batch at a time."""
    (row,) = run.to_pylist()
    groups = [RowGroup(row["uri"], index, num_rows=row["num_rows"]) for index in row["indices"]]
    columns = columns_of(row["uri"], decoding)
    size, pending = decoding.batch_size, None
    for table in _read(groups, columns):
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= size:
            yield decode_batch(pending[:size], row["uri"], decoding)
            pending = pending[size:]
    if pending is not None and pending.num_rows:
        yield decode_batch(pending, row["uri"], decoding)


def columns_of(uri: str, decoding: Decoding) -> list[str]:
    """What to read of a shard."""
    if decoding.labels != "if any":
        return [*COLUMNS, *([] if decoding.labels == "none" else [decoding.labels])]
    return [*COLUMNS, *(["label"] if "label" in shards.read_schema(uri).names else [])]


def _read(groups: Sequence[RowGroup], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Row groups, each read while the one before is decoded: so two are in memory."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shards.read, groups[0], columns)
        for following in groups[1:]:
            table = reading.result()
            reading = pool.submit(shards.read, following, columns)
            yield table
        yield reading.result()


def decode_batch(table: pa.Table, uri: str, decoding: Decoding) -> Batch:
    """Squares ``pixels_0``, ... at each size (uint8 n px px 3), and what is known of the images.

    An image that cannot be decoded, or whose id is none, keeps its place with zero pixels and
    its ``error`` set. Lists of ``labels`` become JSON texts, and files ``image``, of a broken one
    without content.
    """
    num_images, sizes_px = table.num_rows, decoding.sizes_px
    squared = images.resize_middle if decoding.keep_aspect else images.resize_square
    pixels = [np.zeros((num_images, px, px, 3), np.uint8) for px in sizes_px]
    sizes, errors = np.zeros((2, num_images), np.int32), [""] * num_images
    files = np.full(num_images, b"", dtype=object)
    for i, row in enumerate(table.to_pylist()):
        data = row["image"]
        try:
            names.check(row["image_id"], "image_id")
            sizes[:, i] = images.header(data)
            image = images.decode(data, min_side_px=max(sizes_px), max_pixels=decoding.max_pixels)
            for squares in pixels:
                squares[i] = squared(image, squares.shape[1])
            files[i] = data
        except ValueError as error:
            errors[i] = str(error)
    known: Batch = {}
    if "label" in table.column_names:
        known["label"] = table["label"].to_numpy()
    elif decoding.labels == "if any":
        known["label"] = np.full(num_images, None, dtype=object)
    if "labels" in table.column_names:
        texts = [json.dumps(labels) for labels in table["labels"].to_pylist()]
        known["labels"] = np.array(texts, dtype=object)
    if decoding.keeps_files:
        known["image"] = files
    return {
        "image_id": table["image_id"].to_numpy(),
        **known,
        "shard": np.full(num_images, storage.name(uri)),
        "height": sizes[0],
        "width": sizes[1],
        "error": np.array(errors),
        **{f"pixels_{k}": squares for k, squares in enumerate(pixels)},
    }
