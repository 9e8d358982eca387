"""Activation map -> pseudo boxes, and the IoU of boxes in the two conventions that exist.

*Half-open* boxes (x1, y1 are the first column and row outside) are used everywhere in this
project. *Protocol* boxes are those of the published evaluation at 224 x 224: a contour's
bounding rectangle with x1, y1 clipped to 223, compared by counting inclusive pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Real

from c2am_dist.method.contours import to_grey

PROTOCOL_PX = 224
"""Side of the square in which maps are compared (METHODS.md, "Metrics")."""


def to_protocol(activation: Float[np.ndarray, "h w"]) -> Float32[np.ndarray, "224 224"]:
    """The map at the protocol's resolution: cubic resize, then stretched to [0, 1].

    A constant map becomes zeros, as in the published evaluation.

    Raises:
        ValueError: the map is empty or holds NaN or infinity.
    """
    if activation.size == 0 or not np.isfinite(activation).all():
        raise ValueError(f"an activation map of shape {activation.shape} must be finite")
    resized = cv2.resize(
        activation.astype(np.float32),
        (PROTOCOL_PX, PROTOCOL_PX),
        interpolation=cv2.INTER_CUBIC,
    )
    # Asked of the input: resizing a constant leaves rounding noise that would be stretched.
    if activation.max() == activation.min():
        return np.zeros_like(resized)
    resized -= resized.min()
    resized /= resized.max()
    return resized


def pseudo_boxes(
    activation: Float[np.ndarray, "h w"],
    *,
    threshold: float,
    image_size: tuple[int, int],
    max_boxes: int = 1,
) -> tuple[Int32[np.ndarray, "k 4"], Float32[np.ndarray, " k"]]:
    """Half-open boxes in the stored image's pixels, the largest contour first, and scores.

    Contours are found as the evaluation finds them: on the map of :func:`to_protocol`, above
    int(threshold * max) of its 8-bit version. Outer contours alone count here, since the
    border of a hole is no object. The first box is the one the protocol calls the largest.

    Args:
        activation: foreground-bright map in [0, 1], at any resolution.
        threshold: share of the map's maximum, in [0, 1).
        image_size: (height, width) of the stored image.
        max_boxes: how many boxes to return at most.

    Returns:
        Boxes, and for each the mean of the stretched map over its contour's inside, borders
        and holes included, in [0, 1]. A constant map has none.

    Raises:
        ValueError: the map is empty or holds NaN, or the threshold leaves [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    stretched = to_protocol(activation)
    grey = to_grey(stretched)
    _, binary = cv2.threshold(grey, int(threshold * grey.max()), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted(contours, key=cv2.contourArea, reverse=True)[:max_boxes]  # stable
    rects = [cv2.boundingRect(contour) for contour in contours]
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rects], np.int32).reshape(-1, 4)
    scores = [_mean_inside(stretched, c, r) for c, r in zip(contours, rects, strict=True)]
    return to_image(boxes, stretched.shape, image_size), np.array(scores, np.float32)


def _mean_inside(
    activation: Float32[np.ndarray, "h w"], contour: np.ndarray, rect: Sequence[int]
) -> float:
    x, y, width, height = rect
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], 0, 1, cv2.FILLED, offset=(-x, -y))
    mean = cv2.mean(activation[y : y + height, x : x + width], inside)[0]
    return min(mean, 1.0)  # a mean of ones may round to above one


def to_image(
    boxes: Int32[np.ndarray, "k 4"], map_size: tuple[int, int], image_size: tuple[int, int]
) -> Int32[np.ndarray, "k 4"]:
    """Half-open boxes carried from a map's pixels to an image's, rounded, never empty.

    Args:
        boxes: half-open, within the map.
        map_size: (height, width) of the map.
        image_size: (height, width) of the image.
    """
    (map_height, map_width), (height, width) = map_size, image_size
    scale = np.array([width / map_width, height / map_height] * 2)
    low, high = np.split(np.floor(boxes * scale + 0.5).astype(np.int32), 2, axis=1)
    low = np.minimum(low, np.array([width - 1, height - 1], np.int32))
    return np.concatenate([low, np.maximum(high, low + 1)], axis=1)


def gt_to_protocol(
    boxes: Real[np.ndarray, "g 4"], image_size: tuple[int, int]
) -> Int32[np.ndarray, "g 4"]:
    """Annotated boxes scaled to 224 x 224 and truncated, as the protocol compares them.

    Args:
        boxes: half-open, in pixels of the stored image; their corners are scaled as they are.
        image_size: (height, width) of the stored image.
    """
    height, width = image_size
    # Multiplied before divided, as the published code does: truncation sees the difference.
    return (boxes * float(PROTOCOL_PX) / np.array([width, height] * 2)).astype(np.int32)


def centre_boxes(
    sides: Float[np.ndarray, " s"], image_size: tuple[int, int]
) -> Float64[np.ndarray, "s 4"]:
    """Half-open boxes, not rounded, in the middle of an image: one a side, a share of its.

    Args:
        sides: in [0, 1]; 1 is the whole image.
        image_size: (height, width) of the image.
    """
    height, width = image_size
    low, high = (1 - sides) / 2, (1 + sides) / 2
    return np.stack([low * width, low * height, high * width, high * height], axis=1)


def otsu_threshold(activation: Float[np.ndarray, "h w"]) -> float:
    """The threshold, in [0, 1), that best splits a map's pixels in two: Otsu's rule.

    Needs no annotations. It minimises the variance within the two classes of the 8-bit map
    at the protocol's resolution, so :func:`pseudo_boxes` with it sees exactly Otsu's split.
    A constant map gives 0. Source: Otsu, IEEE Trans. SMC 9(1), 1979.

    Raises:
        ValueError: the map is empty or holds NaN.
    """
    grey = to_grey(to_protocol(activation))
    if grey.max() == 0:
        return 0.0
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return (level + 0.5) / 255  # int(threshold * 255) is the level again


def iou(
    boxes: Real[np.ndarray, "n 4"], others: Real[np.ndarray, "m 4"]
) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of half-open boxes, in [0, 1]; 0 where both are empty."""
    return _iou(boxes, others, 0)


def iou_inclusive(
    boxes: Int[np.ndarray, "n 4"], others: Int[np.ndarray, "m 4"]
) -> Float64[np.ndarray, "n m"]:
    """IoU as wsolevaluation counts it: x1 and y1 belong to the box, so sides are one longer.

    Only for the protocol's boxes at 224 x 224; everything else uses :func:`iou`.
    """
    return _iou(boxes, others, 1)


def _iou(
    boxes: Real[np.ndarray, "n 4"], others: Real[np.ndarray, "m 4"], extra: int
) -> Float64[np.ndarray, "n m"]:
    a, b = boxes.astype(np.float64), others.astype(np.float64)  # exact for pixels
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]) + extra
    intersection = np.maximum(sides, 0).prod(axis=2)
    area_a = np.maximum(a[:, 2:] - a[:, :2] + extra, 0).prod(axis=1)
    area_b = np.maximum(b[:, 2:] - b[:, :2] + extra, 0).prod(axis=1)
    union = area_a[:, None] + area_b - intersection
    return intersection / np.where(union > 0, union, 1)
