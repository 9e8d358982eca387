"""The largest connected component of a map, and its box: how DDT localizes.

Wei et al., Pattern Recognition 2019; see ddt.py. Without torch, for the tasks that make boxes.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32


def component_box(
    heat: Float[np.ndarray, "h w"], image_size: tuple[int, int]
) -> Int32[np.ndarray, "k 4"]:
    """The half-open box of the largest component of positive cells: one, or none.

    Cells touch by sides and corners; of equally large components the first in reading order
    counts. The component is enlarged to the image's size with nearest neighbours, so that a
    cell covers the pixels from ceil(i W / w) to ceil((i + 1) W / w); where cells are smaller
    than pixels, the box keeps at least one pixel.

    Args:
        heat: any sign, at the resolution of the features.
        image_size: (height, width) of the stored image.

    Raises:
        ValueError: the heat is empty or holds NaN or infinity.
    """
    if heat.size == 0 or not np.isfinite(heat).all():
        raise ValueError(f"a heat map of shape {heat.shape} must be finite")
    component = largest_component(heat > 0)
    if not component.any():
        # Deviation: the published code then stores the box 0 0 14 14 at 448 pixels.
        return np.zeros((0, 4), np.int32)
    cells = [np.flatnonzero(component.any(axis=axis)) for axis in (0, 1)]  # columns, rows
    sides = zip(cells, reversed(image_size), reversed(heat.shape), strict=True)
    edges = [(-(-c[0] * s // m), -(-(c[-1] + 1) * s // m), s) for c, s, m in sides]
    low = [min(first, side - 1) for first, _, side in edges]
    high = [max(end, first + 1) for (_, end, _), first in zip(edges, low, strict=True)]
    return np.array([low + high], np.int32)


def largest_component(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The connected component with most cells, by sides and corners; empty if the mask is.

    Of equals, the first in reading order.
    """
    _, labels, measures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = measures[1:, cv2.CC_STAT_AREA]
    if len(sizes) == 0:
        return np.zeros_like(mask)
    first = [
        np.flatnonzero(labels.ravel() == 1 + i)[0] for i in np.flatnonzero(sizes == sizes.max())
    ]
    return labels == labels.ravel()[min(first)]
