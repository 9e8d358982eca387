"""Two ways to the same result, timed in turns on one thread."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2


def ratio(
    slow: Callable[[Any], object],
    fast: Callable[[Any], object],
    items: Sequence[Any],
    *,
    repeats: int,
) -> tuple[float, float, float]:
    """How many times faster ``fast`` is, and the seconds an item of both, slow first.

    Each item is done by both in turns, and the best CPU time of its repeats counts: other load
    on the machine then meets both alike.
    """
    cv2.setNumThreads(1)
    totals = [0.0, 0.0]
    for item in items:
        best = [float("inf"), float("inf")]
        for _ in range(repeats):
            for i, function in enumerate((slow, fast)):
                start = time.thread_time()
                function(item)
                best[i] = min(best[i], time.thread_time() - start)
        totals = [total + one for total, one in zip(totals, best, strict=True)]
    return totals[0] / totals[1], totals[0] / len(items), totals[1] / len(items)
