"""Maps of several views to what rows need: one map at the size of the largest, and their parts."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from c2am_dist.labeling.batches import Batch
from c2am_dist.method import activation as maps


class View(NamedTuple):
    """A batch of images at one scale."""

    images: Tensor
    """Normalised, n 3 h w."""
    scale: float
    is_mirrored: bool


def full_scale_first(views: Iterable[View]) -> list[View]:
    """The views in order of how far they are from the image at scale 1, not mirrored."""
    return sorted(views, key=lambda view: (abs(view.scale - 1), view.is_mirrored))


def turned_back(activation: Tensor, view: View) -> Tensor:
    """A view's map as that of the image."""
    return activation.flip(3) if view.is_mirrored else activation


def as_array(values: Tensor) -> np.ndarray:
    """Maps n 1 h w as n h w."""
    return values[:, 0].cpu().numpy()


def merged(found: Sequence[Tensor]) -> np.ndarray:
    """The maps n 1 h w of views as one, n h w, as large as the largest, over its maximum."""
    height = max(activation.shape[2] for activation in found)
    return as_array(maps.merge_scales(found, (height, height)))


def activation_of(found: Sequence[Tensor], *, keeps_views: bool) -> Batch:
    """``activation`` of an image's views; with ``keeps_views`` also ``view_0``, ... of several.

    A lone map stays as the model gave it: its values are what confidence is about.
    """
    if len(found) == 1:
        return {"activation": as_array(found[0])}
    parts = map(as_array, by_size(found)) if keeps_views else ()
    return {"activation": merged(found), **{f"view_{k}": part for k, part in enumerate(parts)}}


def by_size(found: Sequence[Tensor]) -> list[Tensor]:
    """The sums of the maps of each size, such as those of an image and its mirror image.

    Wherever all of them are resized and added up later, this is half as much to pass on.
    """
    sums: dict[tuple[int, ...], Tensor] = {}
    for activation in found:
        size = tuple(activation.shape)
        sums[size] = sums[size] + activation if size in sums else activation
    return list(sums.values())
