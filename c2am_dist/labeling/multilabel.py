"""Localizers of images of several classes, a map for each: CAM of a multi-label classifier, SIPE.

Batches hold the maps of an image's classes in the order of the model's classes, and zeros behind
them where another image has more.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.merging import View, by_size, full_scale_first, merged, turned_back
from c2am_dist.method.cam import class_activation
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.sipe_model import SipeClassifier


class Classes:
    """Which of a model's classes are in an image, and how their maps go into a batch.

    Args:
        names: in order of the model's outputs.
        of_labels: the classes that ``labels`` lists, else those predicted at the scale nearest to
            1, not mirrored.
        keeps_views: also give the maps of each view.
    """

    def __init__(self, names: Sequence[str], *, of_labels: bool, keeps_views: bool) -> None:
        self._names = list(names)
        self._index = {name: i for i, name in enumerate(names)}
        self._of_labels = of_labels
        self._keeps_views = keeps_views

    def labeled(self, known: Batch, device: torch.device) -> Tensor | None:
        """Which classes are in an image, n K; None where they are to be predicted.

        The listed classes are known to be the model's.
        """
        if not self._of_labels:
            return None
        is_present = torch.zeros(len(known["labels"]), len(self._names), dtype=torch.bool)
        for row, text in zip(is_present, known["labels"], strict=True):
            row[[self._index[name] for name in json.loads(text)]] = True
        return is_present.to(device)

    def found(self, per_view: Sequence[Tensor], is_present: Tensor) -> Batch:
        """What rows need.

        Args:
            per_view: m 1 h w of each view, >= 0: maps of the m pairs of an image and a class of
                it, images in order and the classes of each.
            is_present: n K.

        Returns:
            ``activation`` (n h w), the brightest of an image's class maps; ``class_names``, JSON
            texts; ``class_activation`` (n c h w), each map over its maximum; and where asked for
            several views, ``class_view_0``, ... (n c h w), sums of those of one size.
        """
        rows = is_present.cpu().numpy()
        names = [[self._names[k] for k in np.flatnonzero(row)] for row in rows]
        maps = _by_image(merged(per_view), rows)
        found = {
            "activation": maps.max(axis=1),
            "class_names": np.array([json.dumps(each) for each in names], dtype=object),
            "class_activation": maps,
        }
        if self._keeps_views and len(per_view) > 1:
            for k, part in enumerate(by_size(per_view)):
                found[f"class_view_{k}"] = _by_image(part[:, 0].cpu().numpy(), rows)
        return found


def predicted(logits: Tensor) -> Tensor:
    """The classes more likely in an image than not, and the likeliest, as true of n K."""
    is_present = logits > 0
    is_present[torch.arange(len(logits)), logits.argmax(dim=1)] = True
    return is_present


def _by_image(maps: np.ndarray, is_present: np.ndarray) -> np.ndarray:
    """Maps m h w of pairs as n c h w, where c is the most classes of an image, 1 at least."""
    images, _ = np.nonzero(is_present)
    places = is_present.cumsum(axis=1)[is_present] - 1
    num_places = max(1, is_present.sum(axis=1).max())
    found = np.zeros((len(is_present), num_places, *maps.shape[1:]), maps.dtype)
    found[images, places] = maps
    return found


class MultiLabelLocalizer:
    """ReLU of the class activation map of each of an image's classes: CAM."""

    def __init__(self, model: Classifier, classes: Classes) -> None:
        self.model = model
        self._classes = classes

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        found, is_present = [], None
        for view in full_scale_first(views):
            features = self.model.encoder.last_stage(self.model.encoder(view.images))
            if is_present is None:
                is_present = self._classes.labeled(known, features.device)
            if is_present is None:
                is_present = predicted(self.model.fc(features.mean(dim=(2, 3))))
            maps = class_activation(features, self.model.fc.weight).relu()
            found.append(turned_back(maps[is_present][:, None], view))
        assert is_present is not None
        return self._classes.found(found, is_present)


class SipeLocalizer:
    """SIPE's maps of an image's classes; that of the background decides on seeds, and is not kept.

    Args:
        model: in evaluation mode.
        classes: see there.
        maps: the image-specific ones, or the general.
    """

    def __init__(
        self, model: SipeClassifier, classes: Classes, *, maps: Literal["specific", "general"]
    ) -> None:
        self.model = model
        self._classes = classes
        self._maps: Literal["specific", "general"] = maps

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        found, is_present = [], None
        for view in full_scale_first(views):
            if is_present is None:
                is_present = self._classes.labeled(known, view.images.device)
            if is_present is None:
                is_present = predicted(self.model.logits(view.images))
            # Unchecked: an image whose features are not finite has maps of NaN, and is a row.
            output = self.model(view.images, is_present.long(), check=False)
            maps = output.specific if self._maps == "specific" else output.activation
            found.append(turned_back(maps[:, 1:][is_present][:, None].float(), view))
        assert is_present is not None
        return self._classes.found(found, is_present)
