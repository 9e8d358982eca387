"""Background cues: where an image shows no object, as pseudo labels for segmentation."""

import cv2
import numpy as np
from jaxtyping import Float


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
