"""One continuous Ray Data stream of decoded training batches, for all epochs of a run.

read a window, cut into parts -> decode, crop, flip -> split

A row of the stream is a part: one worker's images of one step. Reading, decoding and augmenting
run as Ray tasks, off the training processes. The order is preserved and every block holds one
part, so the split deals them out in turn: part j goes to worker j mod n, and step t is parts t*n
to t*n + n - 1. Epochs follow each other in one execution, since starting one anew costs seconds
(docs/performance.md).
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data import DataIterator, Dataset, ExecutionOptions

from c2am_dist.config import DataConfig
from c2am_dist.data import plan, shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import images

logger = logging.getLogger(__name__)

READ_CPUS, DECODE_CPUS = 0.1, 0.5
"""What tasks reserve. Ray Data looks for finished tasks every 0.1 s, so a task's place stays empty
for about half of that, and decoding a part takes a few tenths of a second: with a CPU each, a
quarter of the cores' time was idle. Two tasks a core fill it. Reading waits more than it computes.
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One worker's images of one step."""

    step: int
    images: np.ndarray
    """uint8, n crop_px crop_px 3; not writable: it lies in Ray's object store."""
    is_replaced: np.ndarray
    """bool, n: could not be decoded, and another image of the part stands in."""
    labels: np.ndarray | None
    """int64, n: indices into the run's classes, where it has any."""


def execution_options() -> ExecutionOptions:
    """What the split relies on: blocks leave each operator in the order they entered it."""
    return ExecutionOptions(preserve_order=True)


class Feed(ray.train.DataConfig):
    """Makes a run's stream whenever its workers (re)start, and deals it out among them.

    Only then are known how many workers there are and the step to go on from, and Ray Train asks
    here. Its own way would hand blocks to workers on the same node first, in another order.

    Args:
        make: the stream for so many workers.
    """

    def __init__(self, make: Callable[[int], Dataset]) -> None:
        super().__init__()
        self._make = make

    def configure(
        self, datasets: Any, world_size: int, *unused: Any, **also_unused: Any
    ) -> list[dict[str, DataIterator]]:
        """The split of every worker, under the names in ``datasets``, whose values are unused."""
        dataset = self._make(world_size)
        dataset.context.execution_options = execution_options()
        splits = dataset.streaming_split(world_size, equal=True)
        return [dict.fromkeys(datasets, split) for split in splits]


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
) -> Dataset:
    """The stream of a run from ``start_step`` on, to be split equally over ``num_workers``.

    Read its rows by :func:`worker_parts`.
    """
    windows = plan.Windows(
        row_groups=row_groups,
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        total_steps=total_steps,
        shuffle_images=data.shuffle_images,
    )
    read = functools.partial(
        _read_window,
        windows=windows,
        part_sizes=plan.part_sizes(batch_size, num_workers),
        columns=["image_id", "image", *(["label"] if classes else [])],
    )
    decode = functools.partial(_decode_part, data=data, seed=seed, classes=tuple(classes))
    dataset = (
        ray.data.range(len(windows), override_num_blocks=len(windows))
        .map_batches(read, batch_size=None, num_cpus=READ_CPUS, concurrency=_num_readers())
        .map_batches(
            decode,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            concurrency=data.decode_tasks,
        )
    )
    context = dataset.context
    context.target_max_block_size = 1  # byte: a block is closed as soon as it holds a row
    context.enable_progress_bars = context.print_on_execution_start = False  # the loop shows it
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
) -> Iterator[pa.Table]:
    """The encoded images of a window in training order, a table of one row for each part."""
    window = windows[batch["id"].item()]
    table = pa.concat_tables(shards.read(group, columns) for group in window.row_groups)
    order = window.order(windows.seed)
    num_steps = len(order) // sum(part_sizes)
    ends = np.cumsum(part_sizes * num_steps)
    for position, end in enumerate(ends):
        rows = table.take(pa.array(order[end - part_sizes[position % len(part_sizes)] : end]))
        lists = {
            name: pa.ListArray.from_arrays([0, len(rows)], rows[name].combine_chunks())
            for name in columns
        }
        step = window.first_step + position // len(part_sizes)
        yield pa.table({"step": [step], "epoch": [window.epoch], **lists})


def _decode_part(part: Any, *, data: DataConfig, seed: int, classes: Sequence[str]) -> pa.Table:
    """Decoded, augmented images; one that cannot be decoded is replaced by its neighbour."""
    (row,) = part.to_pylist()
    image_ids, size = row["image_id"], data.crop_px
    pixels = np.empty((len(image_ids), size, size, 3), np.uint8)
    is_replaced = np.zeros(len(image_ids), bool)
    for i, (image_id, encoded) in enumerate(zip(image_ids, row["image"], strict=True)):
        try:
            pixels[i] = _training_view(encoded, image_id, row["epoch"], data=data, seed=seed)
        except images.ImageError as error:
            is_replaced[i] = True
            logger.warning("image %s is replaced: %s", image_id, error)
    donors = _donors(is_replaced, image_ids)
    pixels[is_replaced] = pixels[donors]
    columns = {
        "step": pa.array([row["step"]]),
        "pixels": pa.array([pixels.data], pa.large_binary()),
        "is_replaced": pa.array([is_replaced]),
    }
    if classes:
        index_of = {name: index for index, name in enumerate(classes)}
        labels = np.array([index_of[name] for name in row["label"]])
        labels[is_replaced] = labels[donors]
        columns["label"] = pa.array([labels])
    return pa.table(columns)


def _training_view(
    encoded: Any, image_id: str, epoch: int, *, data: DataConfig, seed: int
) -> np.ndarray:
    image = images.decode(encoded, min_side_px=data.resize_px, max_pixels=data.max_megapixels * 1e6)
    rng = images.augmentation_rng(seed, epoch, image_id)
    return images.augment(
        image, resize_px=data.resize_px, crop_px=data.crop_px, flip=data.flip, rng=rng
    )


def _donors(is_replaced: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """For each replaced row, the index of the row whose image stands in for it."""
    valid = np.flatnonzero(~is_replaced)
    if not len(valid):
        raise images.ImageError(
            f"none of {len(image_ids)} images of a part can be decoded, {image_ids[0]} among them"
        )
    after = np.searchsorted(valid, np.flatnonzero(is_replaced))
    return valid[after % len(valid)]


def worker_parts(shard: DataIterator, *, crop_px: int, prefetch_parts: int = 2) -> Iterator[Part]:
    """This worker's part of each global batch, as the split deals them."""
    for block in shard.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=prefetch_parts
    ):
        assert isinstance(block, pa.Table)
        pixels = np.frombuffer(block["pixels"][0].as_buffer(), np.uint8)
        yield Part(
            step=block["step"][0].as_py(),
            images=pixels.reshape(-1, crop_px, crop_px, 3),
            is_replaced=np.array(block["is_replaced"][0].as_py()),
            labels=np.array(block["label"][0].as_py()) if "label" in block.column_names else None,
        )


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


def classes_of(row_groups: Sequence[RowGroup]) -> list[str]:
    """The distinct labels of the shards, sorted: the classifier's outputs in order.

    Raises:
        ValueError: an image has no label; the message names its file.
    """
    found: set[str] = set()
    for group in row_groups:
        labels = shards.read(group, ["label"])["label"]
        if labels.null_count:
            raise ValueError(f"{group.uri}: {labels.null_count} images without a label")
        found.update(labels.unique().to_pylist())
    return sorted(found)
