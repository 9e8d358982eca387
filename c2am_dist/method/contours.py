"""Contours of one activation map at many thresholds, as OpenCV finds them, in one scan.

Everything here is in *protocol* boxes (see boxes.py): a contour's bounding rectangle with
x1, y1 clipped to width - 1 and height - 1.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, Int64, UInt8

from c2am_dist.method import runs


class ContourBoxes(NamedTuple):
    """Protocol boxes of every contour, holes' borders too, at several thresholds."""

    boxes: Int32[np.ndarray, "k 4"]
    """Threshold after threshold, each in OpenCV's order; no contour gives one 0 0 0 0."""
    counts: Int[np.ndarray, " t"]
    """Boxes at each threshold, at least 1; they sum to k."""
    largest: Int[np.ndarray, " t"]
    """Which row of ``boxes`` belongs to the contour of largest area, for each threshold."""


def largest_boxes(
    activation: Float[np.ndarray, "h w"], thresholds: Float[np.ndarray, " t"]
) -> Int32[np.ndarray, "t 4"]:
    """The protocol box of the largest contour at each threshold; 0 0 0 0 without contour.

    The map is scaled to 8 bits, truncating; a pixel is foreground above int(threshold * max).
    Area is that of the polygon through the border's pixel centres; the first of equals
    counts. Identical to one ``cv2.threshold`` and ``cv2.findContours`` pass per threshold.
    Source: METHODS.md, "Boxes"; golden/boxes.npz.

    Args:
        activation: a map in [0, 1].
        thresholds: shares of the map's maximum, in [0, 1], in any order.

    Raises:
        ValueError: the map is empty, holds NaN or leaves [0, 1], or a threshold does.
    """
    grey = to_grey(activation)
    levels, inverse = _levels(grey, thresholds)
    boxes, _, largest = runs.scan(grey, levels, True)
    return boxes[largest[inverse]]


def contour_boxes(
    activation: Float[np.ndarray, "h w"], thresholds: Float[np.ndarray, " t"]
) -> ContourBoxes:
    """The protocol boxes of all contours at each threshold, and which one is the largest.

    Arguments, rules and errors are those of :func:`largest_boxes`; contours around holes
    count too.
    """
    grey = to_grey(activation)
    levels, inverse = _levels(grey, thresholds)
    boxes, counts, largest = runs.scan(grey, levels, False)
    if len(inverse) == len(levels):
        return ContourBoxes(boxes, counts, largest)
    starts = np.cumsum(counts) - counts  # thresholds that share a level share its boxes
    rows = np.split(np.arange(len(boxes)), starts[1:])
    within, counts = (largest - starts)[inverse], counts[inverse]
    boxes = boxes[np.concatenate([rows[i] for i in inverse])]
    return ContourBoxes(boxes, counts, np.cumsum(counts) - counts + within)


def compile_scan() -> None:
    """Compiles what this module needs, or loads it from numba's cache on disk.

    Otherwise the first map waits for it: some ten seconds where nothing is cached.
    """
    contour_boxes(np.zeros((1, 1)), np.zeros(1))


def to_grey(activation: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The map in 8 bits, truncated: int(255 * map). Raises what :func:`check_range` does."""
    check_range(activation)
    return (activation * 255).astype(np.uint8)


def check_range(activation: Float[np.ndarray, "h w"]) -> None:
    """Refuses a map that is empty, holds NaN or leaves [0, 1].

    Less than one grey level above 1 is let pass, as golden/max_box_acc.npz holds such maps.

    Raises:
        ValueError: what is wrong with the map.
    """
    if activation.size == 0:
        raise ValueError("an activation map needs at least one pixel, got none")
    low, high = activation.min(), activation.max()  # both are NaN where any value is
    if not (low >= 0 and high * 255 < 256):
        raise ValueError(f"an activation map must lie in [0, 1], got {low} to {high}")


def _levels(
    grey: UInt8[np.ndarray, "h w"], thresholds: Float[np.ndarray, " t"]
) -> tuple[Int64[np.ndarray, " d"], Int[np.ndarray, " t"]]:
    """The distinct grey levels asked for, ascending, and each threshold's place among them."""
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(f"thresholds must be in [0, 1], got {thresholds}")
    wanted = (thresholds * float(grey.max())).astype(np.int64)
    if (wanted[1:] > wanted[:-1]).all():
        return wanted, np.arange(len(wanted))
    return np.unique(wanted, return_inverse=True)
