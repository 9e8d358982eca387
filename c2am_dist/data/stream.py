"""One continuous Ray Data stream of decoded training batches, for all epochs of a run.

read a window -> cut into blocks of one worker's batch -> decode, crop, flip -> split

Reading, decoding and augmenting run as Ray tasks, off the training processes. The order is
preserved and every block has the same number of rows, so the split deals them out in turn:
block j belongs to worker j mod n, and step t to blocks t*n .. t*n + n - 1. Where the number of
workers does not divide the batch, the shorter parts are padded with a row that workers drop.
Epochs follow each other in one execution, since starting one anew costs seconds
(docs/performance.md).
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

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


def batches(
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

    Rows have ``image`` (uint8 crop_px crop_px 3), ``step`` (int64), ``is_padding`` (bool: to be
    dropped), ``is_replaced`` (bool: the image could not be decoded and another of its block
    stands in) and, with ``classes``, ``label`` (int64 index into them).
    """
    windows = list(
        plan.windows(
            row_groups,
            seed=seed,
            batch_size=batch_size,
            start_step=start_step,
            total_steps=total_steps,
            shuffle_images=max(data.shuffle_images, batch_size),
        )
    )
    columns = ["image_id", "image", *(["label"] if classes else [])]
    read = functools.partial(
        _read_window,
        windows=windows,
        seed=seed,
        batch_size=batch_size,
        num_workers=num_workers,
        columns=columns,
    )
    decode = functools.partial(_decode_block, data=data, seed=seed, classes=tuple(classes))
    dataset = (
        ray.data.range(len(windows), override_num_blocks=len(windows))
        .map_batches(read, batch_size=None, batch_format="numpy")
        .repartition(target_num_rows_per_block=-(-batch_size // num_workers), strict=True)
        .map_batches(decode, batch_size=None, batch_format="pyarrow", concurrency=data.decode_tasks)
    )
    context = dataset.context  # the loop shows the progress, not the stream
    context.enable_progress_bars = context.print_on_execution_start = False
    return dataset


def _read_window(
    batch: Any,
    *,
    windows: Sequence[plan.Window],
    seed: int,
    batch_size: int,
    num_workers: int,
    columns: Sequence[str],
) -> pa.Table:
    """The encoded rows of a window in training order and padded, with their epoch and step."""
    window = windows[batch["id"].item()]
    table = pa.concat_tables(shards.read(group, columns) for group in window.row_groups)
    rows = window.first_row + np.arange(window.take)
    indices, is_padding = plan.padded(rows, batch_size=batch_size, num_workers=num_workers)
    table = table.take(pa.array(window.order(seed)[indices]))
    table = table.append_column("epoch", pa.array(np.full(len(indices), window.epoch)))
    table = table.append_column("is_padding", pa.array(is_padding))
    return table.append_column("step", pa.array(rows[indices] // batch_size))


def _decode_block(
    block: Any, *, data: DataConfig, seed: int, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Decoded, augmented images; one that cannot be decoded is replaced by its neighbour."""
    size = data.crop_px
    pixels = np.empty((block.num_rows, size, size, 3), np.uint8)
    is_replaced = np.zeros(block.num_rows, bool)
    image_ids, epochs = block["image_id"].to_pylist(), block["epoch"].to_pylist()
    for i, encoded in enumerate(block["image"]):
        try:
            pixels[i] = _training_view(
                encoded.as_py(), image_ids[i], epochs[i], data=data, seed=seed
            )
        except images.ImageError as error:
            is_replaced[i] = True
            logger.warning("image %s is replaced: %s", image_ids[i], error)
    _replace(pixels, is_replaced, image_ids)
    columns = {"image": pixels, "is_replaced": is_replaced}
    columns |= {name: block[name].to_numpy() for name in ("step", "is_padding")}
    if classes:
        index_of = {name: index for index, name in enumerate(classes)}
        columns["label"] = np.array([index_of[name] for name in block["label"].to_pylist()])
        columns["label"][is_replaced] = columns["label"][_donors(is_replaced)]
    return columns


def _training_view(
    encoded: Any, image_id: str, epoch: int, *, data: DataConfig, seed: int
) -> np.ndarray:
    image = images.decode(encoded, min_side_px=data.resize_px, max_pixels=data.max_megapixels * 1e6)
    rng = images.augmentation_rng(seed, epoch, image_id)
    return images.augment(
        image, resize_px=data.resize_px, crop_px=data.crop_px, flip=data.flip, rng=rng
    )


def _donors(is_replaced: np.ndarray) -> np.ndarray:
    """For each replaced row, the index of the row whose image stands in for it."""
    valid = np.flatnonzero(~is_replaced)
    after = np.searchsorted(valid, np.flatnonzero(is_replaced))
    return valid[after % len(valid)]


def _replace(pixels: np.ndarray, is_replaced: np.ndarray, image_ids: Sequence[str]) -> None:
    if is_replaced.all():
        raise images.ImageError(
            f"none of {len(image_ids)} images of a block can be decoded, {image_ids[0]} among them"
        )
    if is_replaced.any():
        pixels[is_replaced] = pixels[_donors(is_replaced)]


def worker_batches(
    shard: DataIterator, *, batch_size: int, num_workers: int, prefetch_batches: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """This worker's part of each global batch of ``batch_size`` rows, as the split deals them."""
    batches = shard.iter_batches(
        batch_size=-(-batch_size // num_workers),
        batch_format="numpy",
        prefetch_batches=prefetch_batches,
        drop_last=True,
    )
    for batch in cast(Iterable[dict[str, np.ndarray]], batches):
        is_padding = batch.pop("is_padding")
        if is_padding.any():
            batch = {name: values[~is_padding] for name, values in batch.items()}
        yield batch


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
