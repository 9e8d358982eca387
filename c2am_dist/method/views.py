"""What a network sees of an image, and boxes carried there and back: without torch.

An image is squeezed into a square, cropped, and perhaps mirrored (images.py); a box goes
through the same steps as real numbers, edges as edges, so nothing is rounded on the way.
*Relative* boxes are x y w h of the view: left and top edge, width and height, as shares of the
crop's side. All others are half-open x0 y0 x1 y1 in pixels of the stored image.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Real

_SLIVER_PX = 1e-6
"""What rounding may leave of a box that ends where the view begins."""


class View(NamedTuple):
    """A square crop of the square an image was squeezed into."""

    resize_px: int
    """Side of the square."""
    crop_px: int
    """Side of the crop."""
    x0: int
    """The crop's first column in the square."""
    y0: int
    """The crop's first row in the square."""
    is_mirrored: bool
    """Whether the crop is mirrored, left to right."""


def draw_view(rng: np.random.Generator, *, resize_px: int, crop_px: int, flip: bool) -> View:
    """A random crop, mirrored half the time if ``flip``: a training sample's view.

    Raises:
        ValueError: the crop is larger than the square.
    """
    _check_sides(resize_px, crop_px)
    y0, x0 = rng.integers(0, resize_px - crop_px + 1, size=2)
    return View(resize_px, crop_px, int(x0), int(y0), flip and bool(rng.random() < 0.5))


def centre_view(*, resize_px: int, crop_px: int) -> View:
    """The crop in the middle, not mirrored; with equal sides the whole image.

    Raises:
        ValueError: the crop is larger than the square.
    """
    _check_sides(resize_px, crop_px)
    start = (resize_px - crop_px) // 2
    return View(resize_px, crop_px, start, start, False)


def relative_boxes(
    boxes: Real[np.ndarray, "k 4"], image_size: tuple[int, int], view: View
) -> tuple[Float64[np.ndarray, "k 4"], Bool[np.ndarray, " k"]]:
    """Boxes of an image as the network sees them, in [0, 1], and whether it sees them at all.

    Boxes are clipped to the view; one of which nothing is left becomes 0 0 0 0 and is not
    visible. :func:`image_boxes` leads back, to within 1e-9 pixels where nothing was clipped.

    Args:
        boxes: half-open, in pixels of the stored image; may reach out of it.
        image_size: (height, width) of the stored image.
        view: what was cut from it.

    Raises:
        ValueError: a box is not finite or has no area.
    """
    check_boxes(boxes)
    sides = np.array(image_size[::-1] * 2, np.float64)
    # Multiplied before divided: the image's own edges then fall exactly on the square's.
    edges = boxes * float(view.resize_px) / sides - np.array([view.x0, view.y0] * 2)
    if view.is_mirrored:
        edges[:, [0, 2]] = view.crop_px - edges[:, [2, 0]]
    low, high = np.split(np.clip(edges, 0, view.crop_px), 2, axis=1)
    is_visible = np.min(high - low, axis=1) > _SLIVER_PX
    relative = np.concatenate([low, high - low], axis=1) / view.crop_px
    return np.where(is_visible[:, None], relative, 0), is_visible


def image_boxes(
    relative: Real[np.ndarray, "k 4"], image_size: tuple[int, int], view: View
) -> Float64[np.ndarray, "k 4"]:
    """Half-open boxes in the stored image's pixels, not rounded, clipped to the image.

    The inverse of :func:`relative_boxes`. A regressor's box may reach out of its view, where
    the image may go on; it is cut at the image's border alone.

    Args:
        relative: x y w h in the view, such as a regressor's output.
        image_size: (height, width) of the stored image.
        view: what the network saw.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    if not np.isfinite(relative).all():
        raise ValueError(f"boxes must be finite, got {relative.tolist()}")
    low, sides = np.split(relative.astype(np.float64) * view.crop_px, 2, axis=1)
    edges = np.concatenate([low, low + sides], axis=1)
    if view.is_mirrored:
        edges[:, [0, 2]] = view.crop_px - edges[:, [2, 0]]
    image_sides = np.array(image_size[::-1] * 2, np.float64)
    pixels = (edges + np.array([view.x0, view.y0] * 2)) * image_sides / view.resize_px
    return np.clip(pixels, 0, image_sides)


def pixel_boxes(
    boxes: Float64[np.ndarray, "k 4"], image_size: tuple[int, int]
) -> Int32[np.ndarray, "k 4"]:
    """Boxes rounded to whole pixels, within the image, of at least one pixel: to be stored.

    Args:
        boxes: half-open, within the image.
        image_size: (height, width) of the stored image.
    """
    height, width = image_size
    low, high = np.split(np.floor(boxes + 0.5).astype(np.int32), 2, axis=1)
    low = np.minimum(low, np.array([width - 1, height - 1], np.int32))
    return np.concatenate([low, np.maximum(high, low + 1)], axis=1)


def check_boxes(boxes: Real[np.ndarray, "k 4"]) -> None:
    """Refuses half-open boxes that are not finite or have no area.

    Raises:
        ValueError: naming the first one.
    """
    is_finite = np.isfinite(boxes).all(axis=1)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    for is_wrong, reason in ((~is_finite, "is not finite"), (~has_area, "has no area")):
        if is_wrong.any():
            x0, y0, x1, y1 = boxes[np.argmax(is_wrong)].tolist()
            raise ValueError(f"box {x0:g} {y0:g} {x1:g} {y1:g} {reason}")


def _check_sides(resize_px: int, crop_px: int) -> None:
    if crop_px > resize_px:
        raise ValueError(f"crop_px must be <= resize_px ({resize_px}), got {crop_px}")
