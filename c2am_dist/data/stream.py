"""One continuous Ray Data stream of decoded training batches, for all epochs of a run.

read a window, cut into chunks -> decode, crop, flip, cut into parts -> split

A row of the stream is a part: one worker's images of one step. Reading, decoding and augmenting
run as Ray tasks, off the training processes. The order is preserved and every block holds one
part, so the split deals them out in turn: part j goes to worker j mod n, and step t is parts t*n
to t*n + n - 1. Epochs follow each other in one execution, since starting one anew costs seconds
(docs/performance.md).
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataIterator, Dataset, TaskPoolStrategy

from c2am_dist.config import DataConfig
from c2am_dist.data import decode, placement, plan, shards
from c2am_dist.data.cue_sets import CueSets
from c2am_dist.data.decode import StoredBoxes
from c2am_dist.data.pseudo_boxes import PseudoBoxes
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import images

CHUNK_IMAGES = 256
"""Images a decode task is given at least, if its window holds them: about a second of work. Ray
Data looks for finished tasks every 0.1 s, and each costs the machine some milliseconds beside."""
READ_CPUS, DECODE_CPUS = 0.1, 0.5
"""What tasks reserve: two that decode share a core, or it would idle between one task and the
next. Reading waits more than it computes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One worker's images of one step."""

    step: int
    images: np.ndarray
    """uint8, n crop_px crop_px 3; not writable: it lies in Ray's object store."""
    is_replaced: np.ndarray
    """bool, n: could not be decoded, and another image of the part stands in."""
    labels: np.ndarray | None
    """int64, n: indices into the run's classes, where it has any; where images have several,
    int8, n K: 1 for each class in the image, else 0."""
    boxes: np.ndarray | None = None
    """float32, n 4: each image's pseudo box as the view shows it, relative (see views)."""
    is_visible: np.ndarray | None = None
    """bool, n: whether the view shows it at all."""
    cues: np.ndarray | None = None
    """uint8, n q q: each image's background cue as the view shows it (see decode.Views)."""
    is_known: np.ndarray | None = None
    """bool, n: whether there is one."""


def parts(
    row_groups: Sequence[RowGroup],
    *,
    data: DataConfig,
    seed: int,
    batch_size: int,
    num_workers: int,
    start_step: int,
    total_steps: int,
    classes: Sequence[str] = (),
    label_column: str = "label",
    boxes: PseudoBoxes | None = None,
    cues: CueSets | None = None,
) -> Dataset:
    """The stream of a run from ``start_step`` on, to be split equally over ``num_workers``.

    Read its rows by :func:`worker_parts`. Of the shards' columns ``label_column`` is read where
    there are ``classes``: ``label``, one an image, or ``labels``, all that are in it.
    """
    windows = plan.Windows(
        row_groups=row_groups,
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        total_steps=total_steps,
        shuffle_images=data.shuffle_images,
    )
    columns = ["image_id", "image", *([label_column] if classes else [])]
    part_sizes = plan.part_sizes(batch_size, num_workers)
    read = functools.partial(
        _read_window, windows=windows, part_sizes=part_sizes, columns=columns, beside=boxes or cues
    )
    cut = functools.partial(
        _cut_chunk, data=data, seed=seed, part_sizes=part_sizes, classes=tuple(classes)
    )
    dataset = (
        # From the driver: `ray.data.range` would make them in tasks of a whole CPU each, and wait
        # for ever where training leaves less.
        ray.data.from_items(list(range(len(windows))), override_num_blocks=len(windows))
        .map_batches(
            read,
            batch_size=None,
            num_cpus=READ_CPUS,
            compute=TaskPoolStrategy(size=min(_num_readers(), len(windows))),
        )
        .map_batches(
            cut,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            compute=TaskPoolStrategy(size=data.decode_tasks),
        )
    )
    if ray.cluster_resources().get("GPU", 0) > 0:
        placement.prefer_nodes_without_gpu(dataset)
    context = dataset.context
    context.target_max_block_size = 1  # byte: a block is closed as soon as it holds a row
    context.enable_progress_bars = context.print_on_execution_start = False  # the loop shows it
    context.memory_usage_poll_interval_s = None  # one core's hundredth for each task, for a log
    return dataset


def _num_readers() -> int:
    """One for every four cores, which it keeps decoding; each holds a window in memory."""
    return max(2, int(ray.cluster_resources().get("CPU", 0)) // 4)


def _read_window(
    batch: Any,
    *,
    windows: plan.Windows,
    part_sizes: Sequence[int],
    columns: Sequence[str],
    beside: PseudoBoxes | CueSets | None,
) -> Iterator[pa.Table]:
    """The encoded images of a window in training order, whole parts to a chunk, one a table."""
    window = windows[batch["item"].item()]
    read = shards.read if beside is None else beside.read
    table = pa.concat_tables(read(group, columns) for group in window.row_groups)
    order = window.order(windows.seed)
    ends = np.cumsum([0, *list(part_sizes) * (len(order) // windows.batch_size)])
    parts_per_chunk = -(-CHUNK_IMAGES // max(part_sizes))
    for first in range(0, len(ends) - 1, parts_per_chunk):
        last = min(first + parts_per_chunk, len(ends) - 1)
        rows = table.take(pa.array(order[ends[first] : ends[last]]))
        lists = {
            name: pa.ListArray.from_arrays([0, len(rows)], rows[name].combine_chunks())
            for name in table.column_names
        }
        first_part = window.first_step * len(part_sizes) + first
        yield pa.table({"first_part": [first_part], "epoch": [window.epoch], **lists})


def _cut_chunk(
    chunk: Any, *, data: DataConfig, seed: int, part_sizes: Sequence[int], classes: Sequence[str]
) -> Iterator[pa.Table]:
    """The parts of the chunk, decoded: a table of one row for each."""
    epoch, image_ids = chunk["epoch"][0].as_py(), chunk["image_id"][0].as_py()
    encoded = chunk["image"][0].values  # where they lie in the object store: 30 MB are not copied
    labels = _label_numbers(chunk, classes) if classes else None
    boxes = _stored_boxes(chunk) if "box" in chunk.column_names else None
    cues = chunk["background_cue"][0].values if "background_cue" in chunk.column_names else None
    start = 0
    for part in itertools.count(chunk["first_part"][0].as_py()):
        if start == len(image_ids):
            return
        step, worker = divmod(part, len(part_sizes))
        own = slice(start, start + part_sizes[worker])
        found = decode.views_of(
            image_ids[own],
            encoded[own],
            epoch,
            data=data,
            seed=seed,
            boxes=None if boxes is None else StoredBoxes(boxes.edges[own], boxes.sizes[own]),
            cues=None if cues is None else cues[own],
        )
        columns = {
            "step": pa.array([step]),
            "pixels": decode.as_binary(found.pixels),
            "is_replaced": pa.array([found.donors != np.arange(len(found.donors))]),
        }
        if labels is not None:
            columns["label"] = decode.as_binary(labels[own][found.donors])
        if found.boxes is not None and found.is_visible is not None:
            columns["box"] = decode.as_binary(found.boxes)
            columns["is_visible"] = pa.array([found.is_visible])
        if found.cues is not None and found.is_known is not None:
            columns["cue"] = decode.as_binary(found.cues)
            columns["is_known"] = pa.array([found.is_known])
        yield pa.table(columns)
        start = own.stop


def _label_numbers(chunk: Any, classes: Sequence[str]) -> np.ndarray:
    """The labels of a chunk's images as indices of classes, or rows of 1 and 0 (see Part)."""
    index_of = {name: index for index, name in enumerate(classes)}
    if "label" in chunk.column_names:
        return np.array([index_of[name] for name in chunk["label"][0].as_py()], np.int64)
    lists = chunk["labels"][0].as_py()
    numbers = np.zeros((len(lists), len(classes)), np.int8)
    for row, names in zip(numbers, lists, strict=True):
        row[[index_of[name] for name in names]] = 1
    return numbers


def _stored_boxes(chunk: Any) -> StoredBoxes:
    edges, sizes = (
        chunk[name][0].values.flatten().to_numpy().reshape(-1, width)
        for name, width in (("box", 4), ("size", 2))
    )
    return StoredBoxes(edges, sizes)


def worker_parts(
    shard: DataIterator, *, crop_px: int, prefetch: int = 2, num_classes: int | None = None
) -> Iterator[Part]:
    """This worker's part of each global batch, as the split deals them.

    Args:
        shard: what the split gave this worker.
        crop_px: side of the images.
        prefetch: parts to have waiting.
        num_classes: given, an image may have several of so many, and labels are rows of 1 and 0.
    """
    blocks: Any = shard.iter_batches(
        batch_size=cast(int, None),  # whole blocks
        batch_format="pyarrow",
        prefetch_batches=prefetch,
    )
    for block in blocks:
        pixels = np.frombuffer(block["pixels"][0].as_buffer(), np.uint8)
        yield Part(
            step=block["step"][0].as_py(),
            images=pixels.reshape(-1, crop_px, crop_px, 3),
            is_replaced=np.array(block["is_replaced"][0].as_py()),
            labels=_labels(block, num_classes),
            **_boxes(block),
            **_cues(block, crop_px),
        )


def _labels(block: pa.Table, num_classes: int | None) -> np.ndarray | None:
    if "label" not in block.column_names:
        return None
    data = block["label"][0].as_buffer()
    if num_classes is None:
        return np.frombuffer(data, np.int64)
    return np.frombuffer(data, np.int8).reshape(-1, num_classes)


def _cues(block: pa.Table, crop_px: int) -> dict[str, np.ndarray]:
    """A part's ``cues`` and ``is_known``, where the run learns cues."""
    if "cue" not in block.column_names:
        return {}
    side_px = -(-crop_px // decode.CUE_STEP)
    cues = np.frombuffer(block["cue"][0].as_buffer(), np.uint8).reshape(-1, side_px, side_px)
    return {"cues": cues, "is_known": np.array(block["is_known"][0].as_py())}


def _boxes(block: pa.Table) -> dict[str, np.ndarray]:
    """A part's ``boxes`` and ``is_visible``, where the run learns boxes."""
    if "box" not in block.column_names:
        return {}
    boxes = np.frombuffer(block["box"][0].as_buffer(), np.float32).reshape(-1, 4)
    return {"boxes": boxes, "is_visible": np.array(block["is_visible"][0].as_py())}


def sample(
    row_groups: Sequence[RowGroup],
    *,
    num_images: int,
    rank: int,
    num_workers: int,
    data: DataConfig,
) -> list[np.ndarray]:
    """A worker's share of a fixed sample of training images (crop_px squares).

    Image i of the sample belongs to worker i mod ``num_workers``; row groups without any are not
    read. The whole image is squeezed into the square, as labeling does; what cannot be decoded
    is left out.
    """
    decoded, start = [], 0
    for group in plan.limit(row_groups, num_images):
        own = range((rank - start) % num_workers, group.num_rows, num_workers)
        start += group.num_rows
        if not own:
            continue
        for encoded in shards.read(group, ["image"])["image"].take(list(own)):
            try:
                image = images.decode(
                    encoded.as_py(),
                    min_side_px=data.crop_px,
                    max_pixels=data.max_megapixels * 1e6,
                )
            except images.ImageError:
                continue
            decoded.append(images.resize_square(image, data.crop_px))
    return decoded
