"""Steady-state ingest (read, decode, resize, crop) against plain loops on the same cores.

Real ImageNet JPEGs, cycled. The plain loop is a pool of processes, one a core, each reading
and decoding whole row groups of the same shards with the same functions; torch's DataLoader
has as many workers and batches as the stream has.
"""

import functools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2am_dist.config import DataConfig
from c2am_dist.data import decode, plan, shards, stream
from c2am_dist.data import feed as feeds
from c2am_dist.data.shards import RowGroup
from tests.bench.cluster import local_ray
from tests.bench.labeling import write_shards

BATCH, NUM_SHARDS, SHARD_IMAGES, EPOCHS, ROUNDS = 64, 12, 320, 3, 3
DATA = DataConfig(resize_px=256, crop_px=224, shuffle_images=512)


def decode_group(group: RowGroup, data: DataConfig = DATA) -> int:
    """Decodes one row group as training does; returns its number of images."""
    table = shards.read(group, ["image_id", "image"])
    for image_id, encoded in zip(
        table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True
    ):
        decode._view(encoded, image_id, 0, data=data, seed=0)
    return len(table)


class _Groups(torch.utils.data.IterableDataset):
    """The row groups of the shards, dealt to the DataLoader's workers."""

    def __init__(self, row_groups: Sequence[RowGroup]) -> None:
        self.row_groups = row_groups

    def __iter__(self) -> Iterator[np.ndarray]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        for group in self.row_groups[worker.id :: worker.num_workers]:
            table = shards.read(group, ["image_id", "image"])
            for image_id, encoded in zip(
                table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True
            ):
                yield decode._view(encoded, image_id, 0, data=DATA, seed=0)[0]


def _rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Images a second after the first quarter of the arrivals (time, images)."""
    skipped = len(arrivals) // 4
    images = sum(count for _, count in arrivals[skipped + 1 :])
    return images / (arrivals[-1][0] - arrivals[skipped][0])


def _plain(row_groups: Sequence[RowGroup], num_cores: int) -> float:
    with multiprocessing.get_context("spawn").Pool(num_cores) as pool:
        pool.map(_warm, range(num_cores))
        counts = pool.imap_unordered(functools.partial(decode_group), row_groups)
        return _rate([(time.perf_counter(), count) for count in counts])


def _warm(_: int) -> None:
    time.sleep(0.5)  # every process imports before the clock starts


def _dataloader(row_groups: Sequence[RowGroup], num_cores: int) -> float:
    loader = torch.utils.data.DataLoader(
        _Groups(row_groups),
        batch_size=BATCH,
        num_workers=num_cores,
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    return _rate([(time.perf_counter(), len(batch)) for batch in loader])


def _stream(row_groups: Sequence[RowGroup]) -> tuple[float, float]:
    """Images a second once running, and seconds to the first batch."""
    num_images = sum(group.num_rows for group in row_groups)
    feed = feeds.Feed(
        lambda num_workers: stream.parts(
            row_groups,
            data=DATA,
            seed=0,
            batch_size=BATCH,
            num_workers=num_workers,
            start_step=0,
            total_steps=EPOCHS * (num_images // BATCH),
        )
    )
    started = time.perf_counter()
    (part,) = feed.configure({"train": None}, 1)
    arrivals = [
        (time.perf_counter(), len(found.images))
        for found in stream.worker_parts(part["train"], crop_px=DATA.crop_px)
    ]
    return _rate(arrivals), arrivals[0][0] - started


def run() -> list[dict[str, Any]]:
    """Three rounds of each, the best one counting, since other load only slows."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", NUM_SHARDS, SHARD_IMAGES)
        row_groups = plan.limit(shards.index([f"{folder}/shards"]), None)
        plain, loader, ours, first = [], [], [], []
        with local_ray() as num_cores:
            for _ in range(ROUNDS):
                plain.append(_plain(row_groups, num_cores))
                loader.append(_dataloader(row_groups, num_cores))
                rate, first_s = _stream(row_groups)
                ours.append(rate)
                first.append(first_s)
    name = f"256 -> 224 px, batch {BATCH}, {num_cores} cores"
    detail = f"stream {max(ours):.0f} images/s, first batch {min(first):.1f} s"
    return [
        {
            "name": f"{name}: against a plain loop",
            "measured": round(max(ours) / max(plain), 2),
            "target": 0.85,
            "detail": f"{detail}, plain {max(plain):.0f} images/s",
        },
        {
            "name": f"{name}: against torch's DataLoader",
            "measured": round(max(ours) / max(loader), 2),
            "target": 1.0,
            "detail": f"{detail}, DataLoader {max(loader):.0f} images/s",
        },
    ]
