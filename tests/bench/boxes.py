"""Boxes at 19 thresholds against one OpenCV threshold + findContours pass per threshold."""

from pathlib import Path
from typing import Any

import numpy as np

from c2am_dist.method.contours import contour_boxes, largest_boxes
from tests.bench.timing import ratio
from tests.conftest import SHARED
from tests.method import reference
from tests.method.maps import noise_map, smooth_map

THRESHOLDS = np.arange(1, 20) / 20
SIZES = (14, 28, 224)
NUM_MAPS = 60


def run() -> list[dict[str, Any]]:
    """Rows for smooth maps, as a network gives them, with a target; for others without."""
    rng = np.random.default_rng(0)
    rows = []
    for size in SIZES:
        maps = [smooth_map(rng, size) for _ in range(NUM_MAPS)]
        rows += _measure(f"smooth {size} px", maps, target=2.0)
    for size, maps in _golden_maps(SHARED / "golden/boxes.npz").items():
        rows += _measure(f"golden {size} px", maps, target=None)
    for size in SIZES[:2]:
        rows += _measure(f"noise {size} px", [noise_map(rng, size)] * 4, target=None)
    return rows


def _golden_maps(path: Path) -> dict[int, list[np.ndarray]]:
    maps: dict[int, list[np.ndarray]] = {}
    if path.exists():
        data = np.load(path)
        for case in range(int(data["cases"])):
            activation = data[f"{case:02d}_map"]
            maps.setdefault(activation.shape[0], []).append(activation)
    return {size: maps[size] for size in SIZES if size in maps}


def _measure(name: str, maps: list[np.ndarray], *, target: float | None) -> list[dict[str, Any]]:
    rows = []
    for kind, is_any in (("largest contour", False), ("all contours", True)):

        def slow(activation: np.ndarray, is_any: bool = is_any) -> np.ndarray:
            return np.concatenate(reference.boxes(activation, THRESHOLDS, is_any=is_any))

        def fast(activation: np.ndarray, is_any: bool = is_any) -> np.ndarray:
            if is_any:
                return contour_boxes(activation, THRESHOLDS).boxes
            return largest_boxes(activation, THRESHOLDS)

        for activation in maps:
            np.testing.assert_array_equal(fast(activation), slow(activation))
        times, slow_s, fast_s = ratio(slow, fast, maps, repeats=15)
        rows.append(
            {
                "name": f"boxes at 19 thresholds, {name}, {kind}",
                "measured": times,
                "target": target,
                "detail": f"{slow_s * 1e6:.0f} -> {fast_s * 1e6:.0f} us a map, identical boxes",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row['ratio']:5.2f}x (target {row['target']})  {row['name']}: {row['detail']}")
