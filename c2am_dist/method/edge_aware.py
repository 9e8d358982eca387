"""The guided filter: soft maps that follow the edges of the image, without a CRF's iterations.

He, Sun and Tang, "Guided Image Filtering" (IEEE TPAMI 35(6), 2013), with a colour guide: in each
window the map is fitted as a linear function of the pixels' colours, and every pixel takes the
mean of the fits of all windows it lies in. A few box filters, so the time does not depend on the
windows' size.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

RADIUS_PX, EPSILON = 8, 1e-4
"""What did the least harm to coarse true masks of COCO, of 8, 16, 32 and 1e-4, 1e-3, 1e-2
(docs/method.md)."""

# The guide's covariance has six different entries: these pairs of channels.
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def guided_filter(
    image: UInt8[np.ndarray, "_ _ 3"],
    maps: Float[np.ndarray, "k h w"],
    *,
    radius_px: int = RADIUS_PX,
    epsilon: float = EPSILON,
) -> Float32[np.ndarray, "k h w"]:
    """The maps smoothed within the image's regions and cut at its edges, in [0, 1].

    Windows are cut off at the image's border, as in the paper (equations 19 to 21).
    # Deviation: clipped to [0, 1], which linear fits may leave; the maps in float32.

    Args:
        image: the guide; its channels' order does not matter.
        maps: in [0, 1], of the image's size, such as the class activation maps of one image:
            what depends on the image alone is computed once.
        radius_px: windows have sides of 2 radius_px + 1.
        epsilon: variance of colours in [0, 1] below which a window counts as flat and is
            averaged instead of followed; above 0.

    Raises:
        ValueError: sizes differ or are 0, a value of the maps is NaN or leaves [0, 1], or
            ``radius_px`` or ``epsilon`` is not positive.
    """
    _check(image, maps, radius_px, epsilon)
    # About the mean: variances are then differences of small numbers.
    guide = np.ascontiguousarray(image.transpose(2, 0, 1)) / 255.0
    guide -= guide.mean(axis=(1, 2), keepdims=True)
    window = _Windows(guide.shape[1:], radius_px)
    guide_mean = window.mean(guide)
    inverse = _inverse_covariance(guide, guide_mean, window, epsilon).astype(np.float32)
    guide, guide_mean = guide.astype(np.float32), guide_mean.astype(np.float32)
    return np.stack(
        [_follow(guide, guide_mean, inverse, window, one.astype(np.float32)) for one in maps]
    )


class _Windows:
    """Means over square windows around every pixel, of what lies in the image."""

    def __init__(self, size: tuple[int, int], radius_px: int) -> None:
        self._side = 2 * radius_px + 1
        rows, columns = (
            np.minimum(np.arange(n) + radius_px, n - 1) - np.maximum(np.arange(n) - radius_px, 0)
            for n in size
        )
        self._area = np.outer(rows + 1, columns + 1).astype(np.float32)

    def mean(self, planes: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, "c h w"]:
        means = np.empty_like(planes)
        for plane, mean in zip(planes, means, strict=True):
            cv2.boxFilter(
                plane,
                -1,
                (self._side, self._side),
                dst=mean,
                normalize=False,
                borderType=cv2.BORDER_CONSTANT,
            )
            mean /= self._area
        return means


def _inverse_covariance(
    guide: Float64[np.ndarray, "3 h w"],
    guide_mean: Float64[np.ndarray, "3 h w"],
    window: _Windows,
    epsilon: float,
) -> Float64[np.ndarray, "6 h w"]:
    """The inverse of each window's covariance of colours, epsilon added to its diagonal.

    By cofactors, all pixels at once; entries in the order of ``_PAIRS``. In float64, since the
    channels of a grayscale picture are one, and the determinant nearly 0.
    """
    left, right = np.array(_PAIRS).T
    covariance = window.mean(guide[left] * guide[right]) - guide_mean[left] * guide_mean[right]
    covariance[[0, 3, 5]] += epsilon
    rr, rg, rb, gg, gb, bb = covariance
    cofactors = np.stack(
        [
            gg * bb - gb * gb,
            rb * gb - rg * bb,
            rg * gb - rb * gg,
            rr * bb - rb * rb,
            rb * rg - rr * gb,
            rr * gg - rg * rg,
        ]
    )
    return cofactors / (rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2])


def _follow(
    guide: Float32[np.ndarray, "3 h w"],
    guide_mean: Float32[np.ndarray, "3 h w"],
    inverse: Float32[np.ndarray, "6 h w"],
    window: _Windows,
    one: Float32[np.ndarray, "h w"],
) -> Float32[np.ndarray, "h w"]:
    mean, *cross = window.mean(np.stack([one, *(guide * one)]))
    r, g, b = np.stack(cross) - guide_mean * mean
    rr, rg, rb, gg, gb, bb = inverse
    slope = np.stack([rr * r + rg * g + rb * b, rg * r + gg * g + gb * b, rb * r + gb * g + bb * b])
    offset = mean - (slope * guide_mean).sum(axis=0)
    *slope_mean, offset_mean = window.mean(np.stack([*slope, offset]))
    return np.clip((np.stack(slope_mean) * guide).sum(axis=0) + offset_mean, 0, 1)


def _check(
    image: UInt8[np.ndarray, "_ _ 3"],
    maps: Float[np.ndarray, "k h w"],
    radius_px: int,
    epsilon: float,
) -> None:
    if image.shape[:2] != maps.shape[1:]:
        raise ValueError(f"image {image.shape[:2]} and maps {maps.shape[1:]} differ in size")
    if maps.size == 0:
        raise ValueError(f"maps need at least one pixel, got shape {maps.shape}")
    low, high = maps.min(), maps.max()  # both are NaN where any value is
    if not (low >= 0 and high <= 1):
        raise ValueError(f"maps must lie in [0, 1], got {low} to {high}")
    if radius_px < 1:
        raise ValueError(f"radius_px must be at least 1, got {radius_px}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
