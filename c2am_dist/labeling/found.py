"""The maps of one image in a batch, at their own size and at the image's.

Without torch, as rows.py.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from c2am_dist.method import cues


class Found(NamedTuple):
    """What an actor found in an image; see localizers.Localizer and multilabel.Classes."""

    activation: np.ndarray
    """h w."""
    views: Sequence[np.ndarray]
    """The sums of its maps of each size, where several are merged at the image's size."""
    classes: Mapping[str, np.ndarray]
    """The map of each class of the image, h w."""
    class_views: Mapping[str, Sequence[np.ndarray]]
    """Likewise of each class."""

    @property
    def is_merged(self) -> bool:
        """Whether there are maps of several views to merge."""
        return bool(self.views or self.class_views)

    def activation_at(self, size: tuple[int, int]) -> np.ndarray:
        """The activation map at an image's size (height, width)."""
        if self.class_views:
            return np.max([*self.classes_at(size).values()], axis=0)
        if self.views:
            return cues.merge_views(self.views, size)
        return cues.enlarge(self.activation, size)

    def classes_at(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """The map of each class at an image's size."""
        if self.class_views:
            return {name: cues.merge_views(each, size) for name, each in self.class_views.items()}
        return {name: cues.enlarge(each, size) for name, each in self.classes.items()}

    def cue_at(self, size: tuple[int, int]) -> np.ndarray:
        """The background cue at an image's size."""
        if self.is_merged:
            return cues.background_cue(self.activation_at(size))
        return cues.enlarge(cues.background_cue(self.activation), size)


def found_in(block: Mapping[str, np.ndarray], i: int) -> Found:
    """The maps of image ``i`` of a batch."""
    activation, views = block["activation"][i], _numbered(block, "view", i)
    if "class_names" not in block:
        names = [block["class_name"][i]] if "class_name" in block else []
        of_class = {name: activation for name in names}
        return Found(activation, views, of_class, {name: views for name in names if views})
    names, maps = json.loads(block["class_names"][i]), block["class_activation"][i]
    class_views = _numbered(block, "class_view", i)
    return Found(
        activation,
        views,
        {name: maps[k] for k, name in enumerate(names)},
        {name: [view[k] for view in class_views] for k, name in enumerate(names) if class_views},
    )


def _numbered(block: Mapping[str, np.ndarray], name: str, i: int) -> list[np.ndarray]:
    """Image ``i`` of ``NAME_0``, ``NAME_1``, ..."""
    found: list[np.ndarray] = []
    while f"{name}_{len(found)}" in block:
        found.append(block[f"{name}_{len(found)}"][i])
    return found
