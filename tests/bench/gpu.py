"""ResNet-50 at 224 px in bf16 on one GPU: the step, the bare encoder, and the fed loop.

Measured only where there is a CUDA device; elsewhere there is no row.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from c2am_dist.method.c2am import C2AM, c2am_loss
from c2am_dist.method.encoders import build_encoder
from tests.bench.cluster import local_ray
from tests.bench.labeling import write_shards
from tests.bench.loop import loop_rows

SIZE_PX, BATCH, STEPS, SKIPPED = 224, 256, 60, 20


def _milliseconds(step: Callable[[], None], rounds: int = 20) -> float:
    for _ in range(5):
        step()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _steps() -> tuple[float, float, int]:
    """Milliseconds of the whole step and of the bare encoder's passes; peak bytes of the step."""
    torch.manual_seed(0)
    model = C2AM(build_encoder("resnet50")).cuda().to(memory_format=torch.channels_last).train()
    batch = torch.randn(BATCH, 3, SIZE_PX, SIZE_PX, device="cuda")
    batch = batch.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            foreground, background, _ = model(batch)
        c2am_loss(foreground, background, foreground, background, alpha=0.05).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def bare() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            features = model.encoder(batch)
        features.float().mean().backward()
        model.zero_grad(set_to_none=True)

    whole = _milliseconds(step)
    return whole, _milliseconds(bare), torch.cuda.max_memory_allocated()


def run() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    whole, bare, peak = _steps()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", 16, 320)
        with local_ray(include_dashboard=True):
            values = {"optim.batch_size": BATCH, "optim.max_steps": STEPS, "optim.epochs": 100.0}
            rows = loop_rows(folder, values)[SKIPPED:]
    fed = statistics.median(row["images_per_s"] for row in rows)
    wait = statistics.median(row["data_wait_fraction"] for row in rows)
    name = f"resnet50 {SIZE_PX} px, batch {BATCH}, bf16, {torch.cuda.get_device_name()}"
    return [
        {
            "name": f"{name}: step against the encoder's forward and backward",
            "measured": round(bare / whole, 2),
            "target": None,
            "detail": f"{BATCH / whole * 1000:.0f} images/s, peak {peak / 2**30:.1f} GiB",
        },
        {
            "name": f"{name}: loop fed by Ray Data against the step",
            "measured": round(fed / (BATCH / whole * 1000), 2),
            "target": None,
            "detail": f"{fed:.0f} images/s, data wait {wait:.1%}",
        },
    ]
