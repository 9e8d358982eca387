"""Pseudo masks from class activation maps: every pixel goes to the class, or the background.

``keys`` names the channels: the background's id first, then that of each class's map. They are
ids of a label map (``label_maps.py``), and what the masks hold.
"""

import numpy as np
from jaxtyping import Float, Integer


def refine(
    class_activation: Float[np.ndarray, "k h w"],
    background_cue: Float[np.ndarray, "_ _"],
    keys: Integer[np.ndarray, " _"],
) -> Integer[np.ndarray, "h w"]:
    """The mask of class ids in which class maps compete with a background cue.

    Of equals the first channel wins, so the background before any class. Source:
    arXiv:2203.13505, section 3.5 and figure 5; METHODS.md, "CAM refinement"; golden/wsss.npz.

    Args:
        class_activation: the maps of the image's classes, at least one, in [0, 1].
        background_cue: 1 is background, in [0, 1]; of the maps' size.
        keys: k + 1 ids, the background's first; the mask has their type.

    Raises:
        ValueError: sizes differ, a value is NaN or leaves [0, 1], or ``keys`` are not k + 1
            different ids.
    """
    if background_cue.shape != class_activation.shape[1:]:
        raise ValueError(
            f"background cue {background_cue.shape} and class activation maps "
            f"{class_activation.shape[1:]} differ in size"
        )
    _check_keys(keys, len(class_activation))
    _check_range("background cue", background_cue)
    _check_range("class activation map", class_activation)
    channels = np.concatenate([background_cue[None], class_activation])
    return keys[channels.argmax(axis=0)]


def threshold_background(
    class_activation: Float[np.ndarray, "k h w"],
    threshold: float,
    keys: Integer[np.ndarray, " _"],
) -> Integer[np.ndarray, "h w"]:
    """The mask of class ids by the maps alone: background where none is above the threshold.

    The plain baseline that :func:`refine` is compared with: a background cue that is the same
    everywhere. Source: METHODS.md, "CAM refinement"; golden/wsss.npz.

    Args:
        class_activation: as for :func:`refine`.
        threshold: in [0, 1]; compared in the maps' own precision.
        keys: as for :func:`refine`.

    Raises:
        ValueError: as :func:`refine`, or the threshold leaves [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    constant = np.full(class_activation.shape[1:], threshold, class_activation.dtype)
    return refine(class_activation, constant, keys)


def _check_keys(keys: Integer[np.ndarray, " _"], num_classes: int) -> None:
    if num_classes == 0:
        raise ValueError("an image without class activation maps has nothing to refine")
    if len(keys) != num_classes + 1:
        raise ValueError(
            f"{num_classes} class activation maps need {num_classes + 1} keys, the background's "
            f"first, got {len(keys)}"
        )
    if len(set(keys.tolist())) != len(keys):
        raise ValueError(f"keys must differ, got {keys.tolist()}")


def _check_range(name: str, values: Float[np.ndarray, "..."]) -> None:
    if values.size == 0:
        raise ValueError(f"a {name} needs at least one pixel, got shape {values.shape}")
    low, high = values.min(), values.max()  # both are NaN where any value is
    if not (low >= 0 and high <= 1):
        raise ValueError(f"a {name} must lie in [0, 1], got {low} to {high}")
