"""DDT's statistics against all features in memory and scikit-learn's PCA: peak memory and time.

Each way runs in a process of its own, in turns, on the same seeded feature maps, made a batch at
a time as an encoder would. Memory is the highest resident size, less what the process had with
its libraries loaded and one batch made; time is without making the features. The rival is the
published code's: descriptors stacked in float32, ``PCA(n_components=1)``, whose solver is for such
shapes the eigendecomposition of a covariance, too.
"""

import multiprocessing
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUM_IMAGES, BATCH, CHANNELS, CELLS = 2560, 32, 512, 14
ROUNDS = 3


def features(batch: int) -> torch.Tensor:
    """Feature maps with one direction that varies more than the others, n c h w."""
    generator = torch.Generator().manual_seed(batch)
    noise = torch.rand(BATCH, CHANNELS, CELLS, CELLS, generator=generator)
    direction = torch.linspace(-1, 2, CHANNELS)[:, None, None] / 16
    return noise + direction * torch.randn(BATCH, 1, CELLS, CELLS, generator=generator)


def streamed() -> tuple[np.ndarray, float]:
    """The component, and the seconds spent on it."""
    from c2am_dist.method.ddt import DescriptorStats, principal_component

    stats, took_s = DescriptorStats.empty(CHANNELS), 0.0
    for batch in range(NUM_IMAGES // BATCH):
        made = features(batch)
        started = time.perf_counter()
        stats.add(made)
        took_s += time.perf_counter() - started
    started = time.perf_counter()
    component = principal_component(stats).component.numpy()
    return component, took_s + time.perf_counter() - started


def collected() -> tuple[np.ndarray, float]:
    """The same of scikit-learn."""
    from sklearn.decomposition import PCA

    parts = []
    for batch in range(NUM_IMAGES // BATCH):
        parts.append(features(batch).permute(0, 2, 3, 1).reshape(-1, CHANNELS).numpy())
    started = time.perf_counter()
    (component,) = PCA(n_components=1).fit(np.concatenate(parts)).components_
    return component, time.perf_counter() - started


def _measured(way: Callable[[], tuple[np.ndarray, float]]) -> tuple[np.ndarray, float, float]:
    """Component, seconds and MiB."""
    import sklearn.decomposition  # noqa: F401  both ways have all libraries loaded

    import c2am_dist.method.ddt  # noqa: F401

    features(0)
    before = _peak_kib()
    component, took_s = way()
    return component, took_s, (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    """Of this process; getrusage's peak would begin with that of the one that started it."""
    found = re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1])


def run() -> list[dict[str, Any]]:
    """How much less memory and time: the least of both ways' rounds."""
    context = multiprocessing.get_context("spawn")
    found: dict[Any, list[tuple[np.ndarray, float, float]]] = {streamed: [], collected: []}
    for _ in range(ROUNDS):
        for way, results in found.items():
            with context.Pool(1) as pool:  # a process each, since memory once taken stays
                results.append(pool.apply(_measured, (way,)))
    components = [results[0][0] for results in found.values()]
    cosine = abs(np.dot(*components))
    assert cosine > 1 - 1e-6, cosine
    seconds, mib = ([min(r[k] for r in rs) for rs in found.values()] for k in (1, 2))
    size_mib = NUM_IMAGES * CELLS**2 * CHANNELS * 4 / 2**20
    what = (
        f"{NUM_IMAGES} images of {CHANNELS} x {CELLS} x {CELLS} features ({size_mib:.0f} MiB), "
        f"|cosine| of the components 1 - {1 - cosine:.0e}"
    )
    return [
        {
            "name": "DDT: memory of all features and scikit-learn's PCA / ours",
            "measured": round(mib[1] / max(mib[0], 1), 1),
            "target": 10,
            "detail": f"{mib[1]:.0f} MiB -> {mib[0]:.0f} MiB; {what}",
        },
        {
            "name": "DDT: time of scikit-learn's PCA / ours",
            "measured": round(seconds[1] / seconds[0], 2),
            "target": None,
            "detail": f"{seconds[1]:.2f} s -> {seconds[0]:.2f} s, ours in float64, PCA in float32",
        },
    ]
