"""Background cues: where an image shows no object, as pseudo labels for segmentation.

Without torch, as the tasks that make them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from c2am_dist.method.crf import refine_labels
from c2am_dist.method.edge_aware import guided_filter

CUE_THRESHOLD = 0.3
"""Share of the map's maximum above which a pixel is foreground before a dense CRF. Source:
METHODS.md, "Background cues"."""


def background_cue(activation: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """One minus the foreground's activation map divided by its maximum: in [0, 1].

    1 is background, and the map's brightest cell is 0; an image without any activation is all
    background. Source: arXiv:2203.13505, section 3.5; METHODS.md, "Background cues".

    Args:
        activation: foreground bright, in [0, 1].
    """
    peak = activation.max()
    return 1 - activation / peak if peak > 0 else np.ones_like(activation)


def enlarge(
    activation: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """A map in [0, 1] at an image's size (height, width), cubic, overshoot cut off."""
    resized = cv2.resize(activation, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(resized, 0, 1)


def merge_views(
    views: Sequence[Float[np.ndarray, "_ _"]], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """An image's maps of several views, each at the image's size, summed, over their maximum.

    What activation.merge_scales is to a batch on its device. Source: METHODS.md, "Background
    cues".

    Args:
        views: foreground bright, >= 0; those of one size may come as their sum, which resizing
            does not tell apart.
        size: (height, width) of the result; maps are resized to it bilinearly.

    Raises:
        ValueError: there is no map.
    """
    if not views:
        raise ValueError("merge_views needs at least one map")
    total = np.zeros(size, np.float32)
    for view in views:
        total += cv2.resize(view, size[::-1], interpolation=cv2.INTER_LINEAR)
    peak = total.max()
    return total if peak == 0 else total / peak


def refine_by_crf(
    image: UInt8[np.ndarray, "_ _ 3"],
    cue: Float[np.ndarray, "_ _"],
    *,
    threshold: float | None = CUE_THRESHOLD,
) -> Float[np.ndarray, "h w"]:
    """The cue after a dense CRF: 1 where the background is the more probable label, else 0.

    The CRF starts from the foreground, 1 - cue, thresholded. About a second for 640 x 480 pixels.
    Source: METHODS.md, "Background cues"; golden/wsss.npz.

    Args:
        image: RGB, of the cue's size.
        cue: 1 is background, in [0, 1].
        threshold: what is larger in 1 - cue is foreground. None takes Otsu's of the foreground
            stretched to [0, 1], which is not published.

    Raises:
        ValueError: sizes differ.
        CRFMissingError: pydensecrf2 is not installed.
    """
    foreground = 1 - cue
    if threshold is None:
        from c2am_dist.method.boxes import otsu_threshold  # loads numba, which tasks do without

        low, high = float(foreground.min()), float(foreground.max())
        threshold = low + otsu_threshold(foreground) * (high - low)
    labels = (foreground > threshold).astype(np.uint8)
    return (refine_labels(image, labels, 2) == 0).astype(np.float32)


def refine_by_filter(
    image: UInt8[np.ndarray, "_ _ 3"], cue: Float[np.ndarray, "_ _"]
) -> Float[np.ndarray, "h w"]:
    """The cue of the foreground, 1 - cue, after the guided filter: soft, cut at the image's edges.

    Args:
        image: RGB, of the cue's size.
        cue: 1 is background, in [0, 1].

    Raises:
        ValueError: as edge_aware.guided_filter.
    """
    (foreground,) = guided_filter(image, (1 - cue)[None])
    return background_cue(foreground)
