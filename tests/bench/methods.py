"""PSOL's and the classifier's training steps against the bare encoder's forward and backward.

What the loop calls, `METHODS[...].backward` and the optimizer, on a batch in memory, as in the
`step` benchmark: the same encoder, precision, layout and allocator, all variants in turns in
processes of their own. The bare encoder runs forward and backward alone, without a head, a loss
or an optimizer.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from c2am_dist.config import PRESETS, Method, TrainConfig, override
from c2am_dist.method import encoders, optim
from c2am_dist.training.batch import Batch
from c2am_dist.training.fit import KEEP_FREED_MEMORY
from c2am_dist.training.methods import METHODS
from tests.bench.step import BATCH, ENCODER, IS_BF16, SIZE_PX

ROUNDS, NUM_CLASSES = 4, 1000
PRESET_OF: dict[Method, str] = {"psol": "psol", "classifier": "classifier-imagenet"}


def make_step(method: Method, *, is_bare: bool) -> Callable[[], object]:
    """A function that does one step of a method, or its encoder's passes alone."""
    torch.manual_seed(0)
    config = override(
        PRESETS[PRESET_OF[method]], {"model.encoder": ENCODER, "optim.batch_size": BATCH}
    )
    model = METHODS[method].build(config, num_classes=NUM_CLASSES).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randint(0, 256, (BATCH, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=IS_BF16)  # noqa: E731

    def bare() -> None:
        with autocast():
            features = model.encoder(encoders.normalise(pixels))
        features.mean().backward()
        model.zero_grad(set_to_none=True)

    if is_bare:
        return bare
    optimizer = _optimizer(model, config)
    corners = torch.rand(BATCH, 2) / 2

    def step() -> None:
        batch = Batch(
            images=encoders.normalise(pixels),
            labels=torch.arange(BATCH),
            boxes=torch.cat([corners, corners], dim=1),
            is_visible=torch.ones(BATCH, dtype=torch.bool),
        )
        METHODS[method].backward(model, batch, config=config, autocast=autocast)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups = optim.parameter_groups(
        model,
        lr=config.optim.scaled_lr,
        head_lr_factor=config.optim.head_lr_factor,
        weight_decay=config.optim.weight_decay,
        train_norm_affine=config.optim.train_norm_affine,
    )
    return torch.optim.SGD(groups, momentum=config.optim.momentum)


@contextlib.contextmanager
def _process(method: Method, *, is_bare: bool) -> Iterator[Callable[[], float]]:
    with mock.patch.dict(os.environ, KEEP_FREED_MEMORY):
        pool = multiprocessing.get_context("spawn").Pool(1, _start, (method, is_bare))
    with pool:
        yield lambda: pool.map(_seconds, [0])[0]


_step: Callable[[], object]


def _start(method: Method, is_bare: bool) -> None:
    global _step
    _step = make_step(method, is_bare=is_bare)


def _seconds(_: int) -> float:
    started = time.perf_counter()
    _step()
    return time.perf_counter() - started


def run() -> list[dict[str, Any]]:
    """The ratio of the best times, since other load only slows."""
    rows = []
    for method in PRESET_OF:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        with contextlib.ExitStack() as stack:
            steps = {
                is_bare: stack.enter_context(_process(method, is_bare=is_bare))
                for is_bare in (True, False)
            }
            for round_ in range(ROUNDS + 1):  # the first warms up
                for is_bare, step in steps.items():
                    measured = step()
                    if round_:
                        seconds[is_bare].append(measured)
        bare, ours = min(seconds[True]), min(seconds[False])
        rows.append(
            {
                "name": f"{ENCODER} {SIZE_PX} px, batch {BATCH}: {method} step against the encoder",
                "measured": round(bare / ours, 2),
                "target": 0.9,
                "detail": f"{bare:.2f} s -> {ours:.2f} s a step ({BATCH / ours:.1f} images/s)",
            }
        )
    return rows
