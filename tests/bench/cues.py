"""Background cues: the whole labeling job against bare loops, and the CRF's rows by themselves.

Cues are of four scales and mirrored, as published, and stored at the image's size. As the
`labeling` benchmark, rates are the difference between a set and its first shard.

- Merged cues: the bare loop runs all eight views of images that are decoded before; the job also
  reads, decodes, merges, encodes and writes.
- Refined by a dense CRF, of one small view, so that the CRF is all there is: the plain loop
  thresholds the same cues and calls the CRF, in as many processes as there are CPUs.

``guided_and_crf`` times both refinements of a cue beside each other and scores them.
"""

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.labeling.job import label
from c2am_dist.method import cues, encoders, images
from c2am_dist.method.confusion import ConfusionMatrix
from tests.bench.cluster import local_ray
from tests.bench.labeling import DEVICE, PRECISION, STORE_BYTES, on_device, save_model, write_shards

ENCODER, SIZE_PX, BATCH = "resnet18", 224, 16
CRF_PX = 64
"""Side of the one view behind cues to refine."""
SCALES = (0.5, 1.0, 1.5, 2.0)
SHARD_IMAGES, NUM_SHARDS, NUM_ROUNDS = 16, 6, 2
CRF_SHARDS = 4
REFINEMENTS = {"none": None, "crf": cues.refine_by_crf, "guided": cues.refine_by_filter}


def bare_rate(model: torch.nn.Module, folder: Path, num_threads: int) -> float:
    """Images per second of all views, first batch not counted."""
    torch.set_num_threads(num_threads)
    sizes_px = [max(32, round(SIZE_PX * scale)) for scale in SCALES]
    encoded = [
        data
        for group in shards.index([str(folder)])
        for data in shards.read(group, ["image"])["image"].to_pylist()
    ]

    def decode(data: bytes) -> list[np.ndarray]:
        image = images.decode(data, min_side_px=max(sizes_px))
        return [images.resize_square(image, size_px) for size_px in sizes_px]

    total_s, num_images = 0.0, 0
    with ThreadPoolExecutor(num_threads) as pool, torch.inference_mode():
        for start in range(0, len(encoded), BATCH):
            batch = encoded[start : start + BATCH]
            decoded = list(zip(*pool.map(decode, batch), strict=True))
            started = time.perf_counter()
            for squares in decoded:
                seen = encoders.normalise(torch.from_numpy(np.stack(squares)).to(DEVICE))
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16"):
                    for view in (seen, seen.flip(3)):
                        model(view)[2].float().cpu()
            if start > 0:
                num_images += len(batch)
                total_s += time.perf_counter() - started
    return num_images / total_s


def plain_crf(data: bytes) -> float:
    """Seconds of a dense CRF on an image, which is decoded before: what the paper's script does."""
    cv2.setNumThreads(1)
    image = images.decode(data)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    away = np.hypot(y / image.shape[0] - 0.5, x / image.shape[1] - 0.5).astype(np.float32)
    started = time.perf_counter()
    cues.refine_by_crf(image, np.minimum(1, 2 * away))
    return time.perf_counter() - started


def _rate(label_s: Callable[[str, Path], float], folder: Path, num_shards: int, name: str) -> float:
    """Images per second of a job once running."""
    first_s = label_s(str(folder / "0000.parquet"), folder.parent / f"{name}-first")
    whole = str(folder / f"000[0-{num_shards - 1}].parquet")
    whole_s = label_s(whole, folder.parent / f"{name}-whole")
    return SHARD_IMAGES * (num_shards - 1) / (whole_s - first_s)


def run() -> list[dict[str, Any]]:
    with (
        local_ray(object_store_bytes=STORE_BYTES) as cpus,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name) / "shards"
        write_shards(folder, NUM_SHARDS, SHARD_IMAGES)
        model = on_device(save_model(Path(name) / "model", ENCODER))
        config = LabelConfig(
            checkpoint=f"{name}/model",
            size_px=SIZE_PX,
            batch_size=BATCH,
            precision=PRECISION,
            write_maps="none",
            write_cues="image",
        )
        merged = dataclasses.replace(config, scales=SCALES, flip=True)
        refined = dataclasses.replace(config, size_px=CRF_PX, refine_cues="crf")

        def seconds(config: LabelConfig) -> Callable[[str, Path], float]:
            return lambda uri, output: (
                label(dataclasses.replace(config, input=(uri,), output=str(output))).elapsed_s
            )

        rates: dict[str, list[float]] = {"bare": [], "merged": [], "plain": [], "refined": []}
        seconds(config)(str(folder / "0000.parquet"), Path(name) / "warm-up")
        for step in range(NUM_ROUNDS):  # in turn, so that other load meets both
            rates["bare"].append(bare_rate(model, folder, cpus))
            rates["merged"].append(_rate(seconds(merged), folder, NUM_SHARDS, f"merged-{step}"))
            rates["plain"].append(_plain_rate(folder, cpus))
            rates["refined"].append(_rate(seconds(refined), folder, CRF_SHARDS, f"refined-{step}"))
    return [
        _row("cues / bare forward of 8 views", 0.85, rates["merged"], rates["bare"], cpus),
        _row("cues refined by CRF / plain CRF", 0.9, rates["refined"], rates["plain"], cpus),
    ]


def _plain_rate(folder: Path, cpus: int) -> float:
    """Refined cues per second of all CPUs, each in a plain loop."""
    group = next(iter(shards.index([str(folder)])))
    encoded = shards.read(group, ["image"])["image"].to_pylist()
    with multiprocessing.get_context("spawn").Pool(cpus) as pool:
        return cpus / statistics.mean(pool.map(plain_crf, encoded, chunksize=1))


def _row(
    name: str, target: float, job: Sequence[float], bare: Sequence[float], cpus: int
) -> dict[str, Any]:
    shown = (" ".join(f"{rate:.2f}" for rate in found) for found in (job, bare))
    return {
        "name": f"{name}, once running",
        "measured": round(statistics.median(job) / statistics.median(bare), 2),
        "target": target,
        "detail": f"{ENCODER}, {SIZE_PX} px, batch {BATCH}, {PRECISION}, {cpus} CPUs; images/s: "
        "job {}, bare {}".format(*shown),
    }


def guided_and_crf(
    pairs: Sequence[tuple[bytes, np.ndarray, np.ndarray]],
) -> dict[str, dict[str, float]]:
    """Both refinements of background cues beside each other, and none.

    Args:
        pairs: an encoded image, its cue and its true mask, both of its size: of the mask 0 is
            background and 255 ignored; everything else counts as foreground.

    Returns:
        For each refinement ``miou`` of background and foreground, the latter where 1 - cue is
        above the best of thresholds 0.05, 0.1, ... on these images, and ``image_s``.
    """
    thresholds = np.arange(0.05, 1, 0.05)
    found = {}
    for name, refine in REFINEMENTS.items():
        matrices, total_s = [ConfusionMatrix.empty(2) for _ in thresholds], 0.0
        for data, cue, mask in pairs:
            image, refined = images.decode(data), cue
            started = time.perf_counter()
            if refine is not None:
                refined = refine(image, cue)
            total_s += time.perf_counter() - started
            truth = np.where(mask == 255, 255, mask > 0).astype(np.uint8)
            for matrix, threshold in zip(matrices, thresholds, strict=True):
                matrix.add((1 - refined > threshold).astype(np.uint8), truth)
        miou = max(matrix.mean_iou() for matrix in matrices)
        found[name] = {"miou": float(miou), "image_s": total_s / len(pairs)}
    return found


def degraded(masks: Sequence[np.ndarray], cell_px: int) -> list[np.ndarray]:
    """Cues as coarse as a network's: true masks averaged over cells, then enlarged and blurred."""
    found = []
    for mask in masks:
        height, width = mask.shape
        foreground = ((mask > 0) & (mask != 255)).astype(np.float32)
        cells = (max(1, width // cell_px), max(1, height // cell_px))
        coarse = cv2.resize(foreground, cells, interpolation=cv2.INTER_AREA)
        found.append(1 - cues.enlarge(coarse, (height, width)))
    return found
