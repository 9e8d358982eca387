"""A training step against the reference loop: the same model, loss and batch.

The reference is float32, eager and NCHW. Ours is channels-last in the precision that the
training job chooses by itself (bf16 where the processor has it), with freed memory kept as there,
and the same with torch.compile where a C++ compiler is there. Each has a process of its own.
"""

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from c2am_dist.method.c2am import C2AM, c2am_loss
from c2am_dist.method.encoders import build_encoder
from c2am_dist.training.fit import KEEP_FREED_MEMORY
from c2am_dist.training.loop import has_bf16_units

IS_BF16 = has_bf16_units(torch.device("cpu"))
ENCODER, SIZE_PX, BATCH, ROUNDS = "resnet50", 224, 32, 4


def make_step(*, is_ours: bool, is_compiled: bool = False) -> Callable[[], float]:
    """A function that does one step and returns its loss."""
    torch.manual_seed(0)
    model = C2AM(build_encoder(ENCODER)).train()
    batch = torch.randn(BATCH, 3, SIZE_PX, SIZE_PX)
    if is_ours:
        model = model.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    if is_compiled:
        model.encoder.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_ours and IS_BF16):
            foreground, background, _ = model(batch)
        foreground, background = foreground.float(), background.float()
        loss = c2am_loss(foreground, background, foreground, background, alpha=0.05).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


@contextlib.contextmanager
def step_process(**kwargs: bool) -> Iterator[Callable[[], float]]:
    """A function that does one step in a process of its own, and returns its seconds."""
    kept = KEEP_FREED_MEMORY if kwargs["is_ours"] else {}
    with mock.patch.dict(os.environ, kept):  # the C library reads it when a process starts
        pool = multiprocessing.get_context("spawn").Pool(1, _start, (kwargs,))
    with pool:
        yield lambda: pool.map(_seconds, [0])[0]


_step: Callable[[], float]


def _start(kwargs: dict[str, bool]) -> None:
    global _step
    _step = make_step(**kwargs)


def _seconds(_: int) -> float:
    started = time.perf_counter()
    _step()
    return time.perf_counter() - started


def run() -> list[dict[str, Any]]:
    """The ratio of the best times, since other load only slows; all variants take turns."""
    ours = f"{'bf16' if IS_BF16 else 'float32'} channels-last"
    variants = {"reference": {"is_ours": False}, ours: {"is_ours": True}}
    if shutil.which("g++"):
        variants[f"{ours}, compiled"] = {"is_ours": True, "is_compiled": True}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with contextlib.ExitStack() as stack:
        steps = {
            name: stack.enter_context(step_process(**variant)) for name, variant in variants.items()
        }
        for round_ in range(ROUNDS + 1):  # the first warms up
            for name, step in steps.items():
                measured = step()
                if round_:
                    seconds[name].append(measured)
    best = {name: min(values) for name, values in seconds.items()}
    reference = best.pop("reference")
    return [
        {
            "name": f"{ENCODER} {SIZE_PX} px, batch {BATCH}: {name}",
            "measured": round(reference / ours_s, 2),
            "target": 2.0,
            "detail": f"{reference:.1f} s -> {ours_s:.1f} s a step ({BATCH / ours_s:.1f} images/s)",
        }
        for name, ours_s in best.items()
    ]
