"""Regions of COCO's annotations, polygons and RLE, drawn as a mask of category ids.

An annotation's file may say anything, so nothing is handed to pycocotools that it would draw
outside of its memory, or for which it would take all there is.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2am_dist.method.confusion import IGNORED

Array = np.ndarray

_MIN_NUMBERS = 6  # three points
_MAX_CHARS_PER_COUNT = 7  # of compressed RLE: five bits each, and no count has more than 32


@dataclasses.dataclass(frozen=True, slots=True)
class Regions:
    """One image's annotations as its mask needs them, in a form that is small and picklable."""

    text: bytes
    """A JSON list of annotations: id, category_id, iscrowd, area, segmentation."""
    frame: tuple[float, float] | None
    """(width, height) of the image in the units of polygons; None for its pixels."""

    @property
    def size_bytes(self) -> int:
        """About what the mask will take."""
        return len(self.text)


def check_drawable() -> None:
    """Raises ValueError when pycocotools, which draws polygons, is not installed."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError("draw_masks needs the package pycocotools: pip install 'c2am-dist[coco]'")


def pack(annotations: Sequence[Mapping[str, Any]], frame: tuple[float, float] | None) -> Regions:
    """The regions of one image's annotations, in the order in which they are drawn.

    Crowds first, then larger areas first, so that small objects lie on top. Where no ``area`` is
    stated, that of the box counts.
    """
    ordered = sorted(annotations, key=lambda one: (not one.get("iscrowd"), -_area(one)))
    keys = ("id", "category_id", "segmentation")
    rows = [[annotation.get(key) for key in keys] for annotation in ordered]
    return Regions(json.dumps(rows, separators=(",", ":")).encode(), frame)


def _area(annotation: Mapping[str, Any]) -> float:
    if annotation.get("area") is not None:
        return float(annotation["area"])
    _, _, width, height = annotation["bbox"]
    return float(width) * float(height)


def draw(regions: Regions, size: tuple[int, int]) -> Array:
    """The mask (uint8, h w) of an image of this (height, width): category ids, 0 elsewhere.

    Raises:
        ValueError: an annotation has no region, a broken one, or a category id that is none of 1
            to 254; the message names the annotation.
    """
    height, width = size
    frame_width, frame_height = regions.frame or (width, height)
    scale = (width / frame_width, height / frame_height)
    mask = np.zeros(size, np.uint8)
    for annotation_id, category_id, segmentation in json.loads(regions.text):
        try:
            if not isinstance(category_id, int) or not 1 <= category_id < IGNORED:
                raise ValueError(f"category id {category_id!r} is none of 1 to {IGNORED - 1}")
            mask[_region(segmentation, size, scale)] = category_id
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"annotation {annotation_id}: {error}") from error
    return mask


def _region(segmentation: Any, size: tuple[int, int], scale: tuple[float, float]) -> Array:
    """Where a region is (bool, h w)."""
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    is_list = isinstance(segmentation, list) and segmentation
    if not is_list or not all(isinstance(each, list) for each in segmentation):
        raise ValueError(f"neither polygons nor RLE: {str(segmentation)[:80]}")
    from pycocotools import mask as coco_mask  # of the extra, and slow to import

    polygons = [_points(polygon, size, scale).ravel().tolist() for polygon in segmentation]
    drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    counts = drawn["counts"].decode()  # type: ignore  # bytes, whatever the stubs say
    return _run_lengths({"size": list(size), "counts": counts}, size)  # decode() warns: numpy 2


def _points(polygon: list[Any], size: tuple[int, int], scale: tuple[float, float]) -> Array:
    """The points x, y of a polygon in pixels (float64, n 2)."""
    if len(polygon) % 2 or len(polygon) < _MIN_NUMBERS:
        raise ValueError(f"a polygon has x y of three points or more, not {len(polygon)} numbers")
    points = np.array(polygon, np.float64).reshape(-1, 2) * scale
    (height, width), reach_px = size, max(size)
    if not (np.abs(points) <= 2 * reach_px).all():  # which is false of what is no number, too
        raise ValueError(f"a polygon leads far out of the image of {width}x{height}")
    # Each pixel along the outline takes memory. None is longer than around every pixel.
    length_px = np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum()
    if length_px > 4 * height * width + 8 * reach_px:
        raise ValueError(f"a polygon of {len(points)} points is {length_px:.0f} pixels around")
    return points


def _run_lengths(rle: Mapping[str, Any], size: tuple[int, int]) -> Array:
    """Where RLE says that a region is: runs of off and on in turn, column after column."""
    height, width = size
    if list(rle.get("size") or ()) != [height, width]:
        raise ValueError(f"RLE of size {rle.get('size')}, but the image is {[height, width]}")
    counts = rle.get("counts")
    counts = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        raise ValueError("RLE without counts")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"RLE counts {sum(counts)} pixels, but the image has {height * width}")
    is_on = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_on, counts).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """The counts of COCO's compressed RLE: five bits a character, lowest first.

    A sixth bit says that more follow; the fifth of the last is the sign. From the fourth on they
    are differences to the last but one.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * _MAX_CHARS_PER_COUNT:
            raise ValueError("RLE is no compressed counts")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign, if it is set
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("RLE ends within a count")
    return counts
