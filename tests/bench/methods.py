"""PSOL's and the classifier's training steps against the bare encoder's forward and backward.

And SIPE's against that of the plain classifier of several classes, at its published crop.

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
PRESET_OF: dict[Method, str] = {
    "psol": "psol",
    "classifier": "classifier-imagenet",
    "cam": "cam-voc",
    "sipe": "sipe-voc",
}
SIPE_BATCH, SIPE_CLASSES = 4, 20
"""A quarter of the published batch: what the two differ in is the same for each image."""


def make_step(method: Method, *, is_bare: bool) -> Callable[[], object]:
    """A function that does one step of a method, or its encoder's passes alone."""
    torch.manual_seed(0)
    is_listed = method in ("cam", "sipe")
    batch_size, num_classes = (SIPE_BATCH, SIPE_CLASSES) if is_listed else (BATCH, NUM_CLASSES)
    config = override(
        PRESETS[PRESET_OF[method]], {"model.encoder": ENCODER, "optim.batch_size": batch_size}
    )
    model = METHODS[method].build(config, num_classes=num_classes).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.model.norm == "frozen":
        encoders.freeze_norm(model.encoder)
    size_px = config.data.crop_px
    pixels = torch.randint(0, 256, (batch_size, size_px, size_px, 3), dtype=torch.uint8)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=IS_BF16)  # noqa: E731

    def bare() -> None:
        with autocast():
            features = model.encoder(encoders.normalise(pixels))
        features.mean().backward()
        model.zero_grad(set_to_none=True)

    if is_bare:
        return bare
    optimizer = _optimizer(model, config)
    corners = torch.rand(batch_size, 2) / 2
    labels = torch.arange(batch_size)
    if is_listed:
        labels = (torch.arange(num_classes) % 10 == labels[:, None]).to(torch.int8)

    def step() -> None:
        batch = Batch(
            images=encoders.normalise(pixels),
            labels=labels,
            boxes=torch.cat([corners, corners], dim=1),
            is_visible=torch.ones(batch_size, dtype=torch.bool),
        )
        METHODS[method].backward(model, batch, config=config, autocast=autocast)
        optim.clipped_step(optimizer, max_norm=config.optim.max_gradient_norm)

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


def _best(*variants: tuple[Method, bool]) -> list[float]:
    """Seconds of a step of each, a method or its bare encoder, taking turns."""
    seconds = [list[float]() for _ in variants]
    with contextlib.ExitStack() as stack:
        steps = [stack.enter_context(_process(method, is_bare=bare)) for method, bare in variants]
        for round_ in range(ROUNDS + 1):  # the first warms up
            for found, step in zip(seconds, steps, strict=True):
                measured = step()
                if round_:
                    found.append(measured)
    return [min(found) for found in seconds]


def run() -> list[dict[str, Any]]:
    """The ratio of the best times, since other load only slows."""
    rows = []
    for method in ("psol", "classifier"):
        bare, ours = _best((method, True), (method, False))
        rows.append(
            {
                "name": f"{ENCODER} {SIZE_PX} px, batch {BATCH}: {method} step against the encoder",
                "measured": round(bare / ours, 2),
                "target": 0.9,
                "detail": f"{bare:.2f} s -> {ours:.2f} s a step ({BATCH / ours:.1f} images/s)",
            }
        )
    return [*rows, _sipe_row()]


def _sipe_row() -> dict[str, Any]:
    plain, sipe = _best(("cam", False), ("sipe", False))
    size_px = PRESETS["sipe-voc"].data.crop_px
    name = f"{ENCODER} {size_px} px, batch {SIPE_BATCH}"
    return {
        "name": f"{name}: sipe step over the plain classifier's, times as long",
        "measured": round(sipe / plain, 2),
        "target": None,
        "detail": f"{plain:.2f} s -> {sipe:.2f} s a step ({SIPE_BATCH / sipe:.1f} images/s)",
    }
