"""Bytes from storage on paper, and on the wire: the stages that read, run here in turn."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import storage
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import LabelConfig, TrainConfig, override
from c2am_dist.data import plan, shards, stream
from c2am_dist.forecast import Cluster, Forecast
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.decode import Decoding, decode_run
from c2am_dist.labeling.job import _image_set
from c2am_dist.training import dry_run
from tests.fault_proxy import FaultProxy

GROUP_IMAGES, BATCH = 20, 10
HERE = Cluster(num_machines=1, num_cpus=2)
FOOTERS = 1.05
"""Reading a row group fetches the file's footer too: 64 KiB beside 2 MB here, 4 MiB as a rule."""


@pytest.fixture
def folder(bucket: str, proxy: FaultProxy, tmp_path: Path) -> str:
    """Two shards of three row groups: 100 kB an image, which is none, and as much unread."""
    for shard in range(2):
        count = 3 * GROUP_IMAGES
        columns = {
            "image_id": [f"{shard}-{i}" for i in range(count)],
            "image": [os.urandom(100_000) for _ in range(count)],
            "mask": [os.urandom(100_000) for _ in range(count)],
        }
        file = tmp_path / f"{shard}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=GROUP_IMAGES)
        storage.write_bytes(f"{bucket}/shards/{file.name}", file.read_bytes())
    return f"{bucket}/shards"


def _read_bytes(found: Forecast) -> float:
    (stage,) = [stage for stage in found.stages if stage.name == "read"]
    return stage.amount


def test_labeling_fetches_what_was_forecast(folder: str, proxy: FaultProxy):
    config = LabelConfig(input=(folder,), size_px=32, batch_size=BATCH)
    images = _image_set(storage.expand(config.input))
    forecast = _read_bytes(pipeline.forecast(images, config, "resnet18", PlanConfig(), HERE))
    runs = list(pipeline._runs(shards.index(config.input), min_rows=2 * GROUP_IMAGES))
    proxy.clear()
    for run in runs:
        for batch in decode_run(
            pa.Table.from_pylist([run]),
            Decoding(sizes_px=(32,), batch_size=BATCH, max_pixels=1e6),
        ):
            assert all(batch["error"])
    assert 12e6 < forecast <= proxy.fetched_bytes < FOOTERS * forecast


def test_an_epoch_fetches_what_was_forecast(folder: str, proxy: FaultProxy):
    values = {"data.train": (folder,), "model.weights": "none", "run.name": "r"}
    values |= {"optim.batch_size": BATCH, "optim.epochs": 1.0}
    forecast = _read_bytes(dry_run(override(TrainConfig(), values), PlanConfig(), HERE))
    windows = plan.Windows(
        row_groups=shards.index([folder]),
        seed=0,
        batch_size=BATCH,
        start_step=0,
        total_steps=6 * GROUP_IMAGES // BATCH,
        shuffle_images=2 * GROUP_IMAGES,  # so that no two windows share a row group
    )
    proxy.clear()
    num_images = 0
    for index in range(len(windows)):
        for chunk in stream._read_window(
            {"item": np.array([index])},
            windows=windows,
            part_sizes=plan.part_sizes(BATCH, 2),
            columns=["image_id", "image"],
            beside=None,
        ):
            num_images += len(chunk["image_id"][0])
    assert num_images == 6 * GROUP_IMAGES
    assert 12e6 < forecast <= proxy.fetched_bytes < FOOTERS * forecast
