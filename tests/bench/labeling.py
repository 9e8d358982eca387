"""Labeling throughput, once running, against a bare loop of decoding and forward passes.

Both read the same shards of real JPEGs on the same cores. The bare loop decodes a batch with
one thread a core, then runs the same model with as many threads; it makes no boxes, encodes no
PNG and writes nothing. Labeling's rate is the difference between a set and its first shard, in
images and in seconds: starting processes cancels out, and every image's decoding counts, also
that of the many that wait decoded while the actors start.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from c2am_dist import checkpoint
from c2am_dist.checkpoint import Checkpoint
from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.labeling.job import label
from c2am_dist.method import encoders, images
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder
from c2am_dist.training.loop import has_bf16_units
from tests.bench.cluster import local_ray
from tests.conftest import SHARED

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = "bf16" if has_bf16_units(DEVICE) else "float32"
ENCODER, SIZE_PX, BATCH = "resnet18", 224, 32
SHARD_IMAGES, NUM_SHARDS, NUM_ROUNDS = 64, 21, 2
BARE_BATCHES = 16
STORE_BYTES = 2**30


def write_shards(folder: Path, num_shards: int, shard_images: int) -> None:
    """Shards of the ImageNet samples, cycled, in row groups of about 4 MiB."""
    files = sorted((SHARED / "data" / "imagenet-samples").glob("*.JPEG"))
    samples = itertools.cycle([file.read_bytes() for file in files])
    folder.mkdir()
    for shard in range(num_shards):
        ids = [f"{shard:04d}-{i:06d}" for i in range(shard_images)]
        encoded = list(itertools.islice(samples, shard_images))
        table = pa.table({"image_id": ids, "image": pa.array(encoded, pa.binary())})
        pq.write_table(table, folder / f"{shard:04d}.parquet", row_group_size=36)


def save_model(folder: Path, encoder: str) -> C2AM:
    """Saves random weights whose BatchNorm has seen data, so that no value overflows."""
    torch.manual_seed(0)
    model = C2AM(build_encoder(encoder)).train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(4, 3, 96, 96))
    saved = Checkpoint(
        method="c2am", encoder=encoder, model=model.state_dict(), optimizer={}, step=1,
        total_steps=1, classes=[], polarity="foreground", polarity_margin=0.5, border_lock=0.0,
        crop_px=SIZE_PX, weights_sha256="", config="{}",
    )  # fmt: skip
    checkpoint.save(str(folder), saved)
    return model.eval()


def bare_rate(
    forward: Callable[[Tensor], Tensor],
    squared: Callable[[np.ndarray, int], np.ndarray],
    folder: Path,
    num_threads: int,
) -> float:
    """Images per second of decode + forward, batch after batch, first batch not counted."""
    torch.set_num_threads(num_threads)

    def decode(data: bytes) -> np.ndarray:
        return squared(images.decode(data, min_side_px=SIZE_PX), SIZE_PX)

    def batches():
        pending: list[bytes] = []
        for group in shards.index([str(folder)]):
            pending += shards.read(group, ["image"])["image"].to_pylist()
            while len(pending) >= BATCH:
                yield pending[:BATCH]
                pending = pending[BATCH:]

    started, num_images = 0.0, 0
    with ThreadPoolExecutor(num_threads) as pool, torch.inference_mode():
        for step, encoded in enumerate(itertools.islice(batches(), BARE_BATCHES)):
            pixels = torch.from_numpy(np.stack(list(pool.map(decode, encoded)))).to(DEVICE)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16"):
                forward(encoders.normalise(pixels)).float().cpu()
            if step == 0:
                started = time.perf_counter()
            else:
                num_images += len(encoded)
    return num_images / (time.perf_counter() - started)


def steady(
    job_s: Callable[[str, Path], float], bare: Callable[[Path, int], float]
) -> tuple[list[float], list[float], list[float], int]:
    """Rates of a job once running and of a bare loop, in turns; and seconds for one shard; CPUs.

    Args:
        job_s: does the job on shards into a folder and gives its seconds from start to end.
        bare: images per second over the folder of shards, on so many threads.
    """
    running, alone, one_shard = [], [], []
    with (
        local_ray(object_store_bytes=STORE_BYTES) as cpus,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        write_shards(folder / "shards", NUM_SHARDS, SHARD_IMAGES)
        first, every = str(folder / "shards" / "0000.parquet"), str(folder / "shards")
        job_s(first, folder / "warm-up")
        for step in range(NUM_ROUNDS):  # in turn, so that other load meets both
            alone.append(bare(folder / "shards", cpus))
            one_shard.append(job_s(first, folder / f"first-{step}"))
            whole_s = job_s(every, folder / f"every-{step}")
            running.append(SHARD_IMAGES * (NUM_SHARDS - 1) / (whole_s - one_shard[-1]))
    return running, alone, one_shard, cpus


def on_device(model: nn.Module) -> nn.Module:
    """The model laid out as the actors' is."""
    return model.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]


def row(what: str, target: float, rates: Sequence[list[float]], cpus: int) -> dict[str, Any]:
    """Of the table: the ratio of the medians of a job's rates and the bare loop's."""
    running, alone = (statistics.median(found) for found in rates)
    job, bare = (" ".join(f"{rate:.1f}" for rate in found) for found in rates)
    return {
        "name": f"{what} / bare decode + forward, once running",
        "measured": round(running / alone, 2),
        "target": target,
        "detail": f"{ENCODER}, {SIZE_PX} px, batch {BATCH}, {PRECISION}, {cpus} CPUs; "
        f"images/s: {what} {job}, bare {bare}",
    }


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        model = on_device(save_model(Path(folder) / "model", ENCODER))
        config = LabelConfig(checkpoint=f"{folder}/model", batch_size=BATCH, precision=PRECISION)

        def label_s(shards: str, output: Path) -> float:
            job = dataclasses.replace(config, input=(shards,), output=str(output))
            return label(job).elapsed_s

        def bare(shards: Path, num_threads: int) -> float:
            return bare_rate(
                lambda batch: model(batch)[2], images.resize_square, shards, num_threads
            )

        labeling, alone, one_shard, cpus = steady(label_s, bare)
    return [
        row("labeling", 0.85, (labeling, alone), cpus),
        {
            "name": "labeling: seconds for one shard of 64 images",
            "measured": round(statistics.median(one_shard), 1),
            "target": None,
            "detail": "starting the actor included, Ray itself not",
        },
    ]
