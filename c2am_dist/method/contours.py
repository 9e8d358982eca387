"""Contours of one activation map at many thresholds, with few passes of OpenCV.

Everything here is in *protocol* boxes (see boxes.py): a contour's bounding rectangle with
x1, y1 clipped to width - 1 and height - 1.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

_EIGHT_NEIGHBOURS = np.ones((3, 3), np.uint8)
_FOUR_NEIGHBOURS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

Rect = tuple[int, int, int, int]
"""x0 y0 x1 y1, half-open."""
Found = list[Any] | Rect | None
"""A level's contours as OpenCV gives them, the rectangle of its only one, or nothing."""


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
        ValueError: the map is empty, holds NaN or leaves [0, 1].
    """
    grey = to_grey(activation)
    levels, inverse = _levels(grey, thresholds)
    found = _Scan(activation, grey, levels, is_outer_only=True).solve()
    return _clip([_rects(one)[_largest_index(one)] for one in found], grey.shape)[inverse]


def contour_boxes(
    activation: Float[np.ndarray, "h w"], thresholds: Float[np.ndarray, " t"]
) -> ContourBoxes:
    """The protocol boxes of all contours at each threshold, and which one is the largest.

    Arguments, rules and errors are those of :func:`largest_boxes`; contours around holes
    count too.
    """
    grey = to_grey(activation)
    levels, inverse = _levels(grey, thresholds)
    found = _Scan(activation, grey, levels, is_outer_only=False).solve()
    rects = [_rects(found[i]) for i in inverse]
    largest = [_largest_index(one) for one in found]
    counts = np.array([len(one) for one in rects], np.int64)
    boxes = _clip([rect for one in rects for rect in one], grey.shape)
    starts = np.cumsum(counts) - counts
    return ContourBoxes(boxes, counts, starts + np.array(largest, np.int64)[inverse])


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
) -> tuple[Int[np.ndarray, " d"], Int[np.ndarray, " t"]]:
    """The distinct grey levels asked for, ascending, and each threshold's place among them."""
    wanted = (thresholds * float(grey.max())).astype(np.int64)
    if (wanted[1:] > wanted[:-1]).all():
        return wanted, np.arange(len(wanted))
    return np.unique(wanted, return_inverse=True)


class _Scan:
    """Finds the contours of nested binary maps, showing OpenCV as little as it can.

    Foreground at a higher level lies within that at a lower one, which gives three savings:

    * The bounding box of a level's whole foreground follows, for all levels at once, from
      the maxima of the map's rows and columns. OpenCV sees only that part of the map.
    * Every component holds a *peak*: a pixel no smaller than its eight neighbours. With one
      component at level s, and no peak whose grey level lies in (r, s], no component starts
      between: there is one at r as well, and the whole foreground's box is its box.
    * Every hole holds a *pit*: an inner pixel no larger than its four neighbours. With no
      hole at r, and no pit in (r, s], there is no hole up to s.

    Peaks and pits are found on the map before it is scaled to 8 bits, where few pixels are
    equal. A map with plateaus has many of both: still exact, only slower. For the largest
    contour holes do not matter: one lies within its component's outer contour, which comes
    first among equals.
    """

    def __init__(
        self,
        activation: Float[np.ndarray, "h w"],
        grey: UInt8[np.ndarray, "h w"],
        levels: Int[np.ndarray, " d"],
        *,
        is_outer_only: bool,
    ) -> None:
        self._grey = grey
        self._levels: list[int] = levels.tolist()
        self._is_outer_only = is_outer_only
        self._extents = _extents(grey, levels)
        self._peaks = _num_peaks(activation, grey, levels)
        self._pits = None if is_outer_only else _num_pits(activation, grey, levels)

    def solve(self) -> list[Found]:
        """What is found at each level, lowest first."""
        found: list[Found] = [None] * len(self._levels)
        if self._grey.max() == 0 or not found:
            return found
        last = len(found) - 1
        found[0], found[last] = self._look(0), self._look(last)
        spans = [(0, last)]
        while spans:
            low, high = spans.pop()
            if high - low < 2:
                continue
            if self._is_single_between(low, high, found):
                found[low + 1 : high] = self._extents[low + 1 : high]
                continue
            middle = (low + high) // 2
            found[middle] = self._look(middle)
            spans += ((low, middle), (middle, high))
        return found

    def _is_single_between(self, low: int, high: int, found: list[Found]) -> bool:
        is_one_component = isinstance(found[high], tuple) and self._peaks[low] == self._peaks[high]
        if self._pits is None or not is_one_component:
            return is_one_component
        return isinstance(found[low], tuple) and self._pits[low] == self._pits[high]

    def _look(self, index: int) -> Found:
        extent = self._extents[index]
        if self._peaks[index] == 1 and (self._pits is None or self._pits[index] == 0):
            return extent
        x0, y0, x1, y1 = extent
        _, binary = cv2.threshold(
            self._grey[y0:y1, x0:x1], self._levels[index], 255, cv2.THRESH_BINARY
        )
        mode = cv2.RETR_EXTERNAL if self._is_outer_only else cv2.RETR_TREE
        contours, _ = cv2.findContours(binary, mode, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0))
        if len(contours) == 0:  # a threshold of 1 leaves no foreground
            return None
        return extent if len(contours) == 1 else list(contours)


def _extents(grey: UInt8[np.ndarray, "h w"], levels: Int[np.ndarray, " d"]) -> list[Rect]:
    """The bounding box of all pixels above each level; meaningless where there are none."""
    height, width = grey.shape
    columns, rows = grey.max(axis=0), grey.max(axis=1)
    # The first place above a level, from either end, by search in a running maximum.
    x0, x1, y0, y1 = (
        np.searchsorted(np.maximum.accumulate(line), levels, side="right")
        for line in (columns, columns[::-1], rows, rows[::-1])
    )
    return list(
        zip(x0.tolist(), y0.tolist(), (width - x1).tolist(), (height - y1).tolist(), strict=True)
    )


def _num_peaks(
    activation: Float[np.ndarray, "h w"],
    grey: UInt8[np.ndarray, "h w"],
    levels: Int[np.ndarray, " d"],
) -> list[int]:
    """How many peaks rise above each level."""
    is_peak = activation >= cv2.dilate(activation, _EIGHT_NEIGHBOURS)
    peaks = np.sort(grey[is_peak])
    return (len(peaks) - np.searchsorted(peaks, levels, side="right")).tolist()


def _num_pits(
    activation: Float[np.ndarray, "h w"],
    grey: UInt8[np.ndarray, "h w"],
    levels: Int[np.ndarray, " d"],
) -> list[int]:
    """How many pits reach down to each level; the image's border is no hole, so holds none."""
    is_pit = (activation <= cv2.erode(activation, _FOUR_NEIGHBOURS))[1:-1, 1:-1]
    pits = np.sort(grey[1:-1, 1:-1][is_pit])
    return np.searchsorted(pits, levels, side="right").tolist()


def _rects(found: Found) -> list[Rect]:
    if found is None:
        return [(0, 0, 0, 0)]
    if isinstance(found, tuple):
        return [found]
    corners = [cv2.boundingRect(contour) for contour in found]
    return [(x, y, x + width, y + height) for x, y, width, height in corners]


def _largest_index(found: Found) -> int:
    if not isinstance(found, list):
        return 0
    areas = [cv2.contourArea(contour) for contour in found]
    return areas.index(max(areas))


def _clip(rects: list[Rect], shape: tuple[int, ...]) -> Int32[np.ndarray, "k 4"]:
    height, width = shape
    boxes = np.array(rects, np.int32).reshape(-1, 4)
    return np.minimum(boxes, np.array([width, height, width - 1, height - 1], np.int32))
