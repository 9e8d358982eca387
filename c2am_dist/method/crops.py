"""Random resized crops, as classifiers are trained: a part of the image, squeezed into a square.

Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), with torchvision's constants and
number of attempts.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from c2am_dist.method.images import resize_square

AREA = (0.08, 1.0)
"""Share of the image's area, drawn uniformly."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height, its logarithm drawn uniformly."""
_ATTEMPTS = 10


def min_side_px(crop_px: int) -> int:
    """Shorter side below which an image should not be decoded, lest its crops be blurred."""
    return math.ceil(crop_px / math.sqrt(AREA[0]))


def draw_crop(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A random part x0 y0 x1 y1, half-open, of an image of a size (height, width).

    After ten draws that do not fit, the middle of the image, at the nearest aspect.
    """
    height, width = size
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(_ATTEMPTS):
        area, aspect = height * width * rng.uniform(*AREA), math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x0, y0 = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(x0), int(y0), int(x0) + w, int(y0) + h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    w, h = max(1, w), max(1, h)
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def augment(
    image: UInt8[np.ndarray, "h w 3"], *, crop_px: int, flip: bool, rng: np.random.Generator
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
    """A training sample: a random part as a square, mirrored half the time if ``flip``."""
    x0, y0, x1, y1 = draw_crop(rng, image.shape[:2])
    square = resize_square(image[y0:y1, x0:x1], crop_px)
    return cv2.flip(square, 1) if flip and rng.random() < 0.5 else square  # type: ignore
