"""What labeling asks of a method: what it finds in a batch of images, seen in one or more views.

The rest of the job, from decoding to files, is the same for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import LabelConfig
from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.merging import (
    View,
    activation_of,
    as_array,
    full_scale_first,
    turned_back,
)
from c2am_dist.labeling.models import Source
from c2am_dist.labeling.multilabel import Classes, MultiLabelLocalizer, SipeLocalizer
from c2am_dist.method import activation as maps
from c2am_dist.method import bridging, cam
from c2am_dist.method.activation import Polarity
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.ddt import DescriptorTransform, heat_maps, positive_part
from c2am_dist.method.encoders import Encoder
from c2am_dist.method.psol import BoxRegressor
from c2am_dist.method.saliency import SaliencyNet

WHOLE_SET = ""
"""The one class of DDT over the whole set."""
MULTI_LABEL = ("cam", "sipe")
"""Checkpoints whose images have any number of classes, those of the column ``labels``."""
_OF_CHECKPOINT = {
    "c2am": "c2am",
    "classifier": "cam",
    "cam": "cam",
    "bridging": "bridging",
    "psol": "psol",
    "sipe": "sipe",
    "saliency": "saliency",
}
"""The method that a checkpoint is made for."""


class Localizer(Protocol):
    """A method with its model, on the device of the actor that holds it."""

    @property
    def model(self) -> nn.Module: ...

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        """What is found in images.

        Args:
            views: of the same images; at least one.
            known: what is known of them, such as ``error`` and, where asked for, ``label`` or
                ``labels``.

        Returns:
            ``activation`` (float32 n h w in [0, 1]) or ``relative_box`` (float32 n 4), and what
            else goes into rows, such as the maps of each view where rows merge them; ``error``,
            if there, replaces the one of ``known``.
        """
        ...


class C2AMLocalizer:
    """The activation map, turned so that it means foreground."""

    def __init__(self, model: C2AM, polarity: Polarity, *, keeps_views: bool = False) -> None:
        self.model = model
        self._polarity = polarity
        self._keeps_views = keeps_views

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        found = [turned_back(self._oriented(view.images), view) for view in views]
        return activation_of(found, keeps_views=self._keeps_views)

    def _oriented(self, images: Tensor) -> Tensor:
        _, _, activation = self.model(images)
        return maps.orient(activation.float(), self._polarity)


class SaliencyLocalizer:
    """How probable the foreground is, at a quarter of the image's size."""

    def __init__(self, model: SaliencyNet, *, keeps_views: bool = False) -> None:
        self.model = model
        self._keeps_views = keeps_views

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        found = [turned_back(self.model(view.images).float().sigmoid(), view) for view in views]
        return activation_of(found, keeps_views=self._keeps_views)


class ClassLocalizer:
    """The class activation map of a classifier: CAM, and Bridging the Gap.

    Args:
        model: a classifier; one trained by Bridging the Gap is run like any other.
        classes: its classes in order of its outputs.
        of_label: show the class that ``label`` names, else the one predicted at the scale nearest
            to 1, not mirrored.
        with_factors: also give the two factors of the map.
        keeps_views: also give the maps of each view.
    """

    def __init__(
        self,
        model: Classifier,
        classes: Sequence[str],
        *,
        of_label: bool,
        with_factors: bool,
        keeps_views: bool = False,
    ) -> None:
        self.model = model
        self._names = np.array([*classes], dtype=object)
        self._index = {name: i for i, name in enumerate(classes)}
        self._of_label = of_label
        self._with_factors = with_factors
        self._keeps_views = keeps_views

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        found, factors, index = [], Batch(), self._labeled(known) if self._of_label else None
        for view in full_scale_first(views):
            features = self.model.encoder.last_stage(self.model.encoder(view.images))
            index = None if index is None else index.to(features.device)
            shown = cam.class_activation_maps(features, self.model.fc, index)
            index = shown.class_index
            found.append(turned_back(shown.activation.float(), view))
            if self._with_factors:
                factors = self._factors(features, index)
        assert index is not None
        names = self._names[index.cpu().numpy()]
        maps = activation_of(found, keeps_views=self._keeps_views)
        return {**maps, "class_name": names, **factors}

    def _labeled(self, known: Batch) -> Tensor:
        return torch.tensor([self._index[label] for label in known["label"]])

    def _factors(self, features: Tensor, index: Tensor) -> Batch:
        """The normalised norm of the features, and their similarity to the class, halved + 1/2."""
        similarity = bridging.decompose(features, self.model.fc.weight, index).similarity
        parts = {
            "norm_map": bridging.norm_map(features),
            "similarity_map": ((similarity + 1) / 2).clamp(0, 1),
        }
        return {name: as_array(part) for name, part in parts.items()}


class DDTLocalizer:
    """The positive part of the heat of each image's class; its cells are the object's.

    Args:
        encoder: of any checkpoint.
        transforms: by class, or of `WHOLE_SET`.
        reasons: why a class has none.
    """

    def __init__(
        self,
        encoder: Encoder,
        transforms: Mapping[str, DescriptorTransform],
        reasons: Mapping[str, str],
    ) -> None:
        self.model = encoder
        self._transforms = dict(transforms)
        self._reasons = dict(reasons)
        self._by_class = WHOLE_SET not in {**self._transforms, **self._reasons}

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        (view,) = views
        features = self.model.last_stage(self.model(view.images))
        labels = known["label"] if self._by_class else np.full(len(features), WHOLE_SET, object)
        heat = torch.zeros_like(features[:, :1], dtype=torch.float32)
        for label in sorted(set(labels) & self._transforms.keys()):
            chosen = torch.tensor(labels == label, device=features.device)
            heat[chosen] = heat_maps(features[chosen], self._transforms[label]).float()
        found: Batch = {"activation": as_array(positive_part(heat))}
        if self._by_class:
            found["class_name"] = labels
        reasons = [self._reasons.get(label, "") for label in labels]
        errors = [str(e) or reason for e, reason in zip(known["error"], reasons, strict=True)]
        return {**found, "error": np.array(errors)}


class PSOLLocalizer:
    """A regressor's box, as shares of the image's sides."""

    def __init__(self, model: BoxRegressor) -> None:
        self.model = model

    def locate(self, views: Iterable[View], known: Batch) -> Batch:
        (view,) = views
        return {"relative_box": self.model(view.images).float().cpu().numpy()}


def choose(config: LabelConfig, source: Source) -> str:
    """The method that labels: the checkpoint's, or the one asked for if the two agree.

    Raises:
        CheckpointError: they do not.
        ValueError: the method cannot do what the config asks for; names the field.
    """
    made_for = _OF_CHECKPOINT.get(source.loaded.method)
    method = made_for if config.method == "auto" else config.method
    if method is None and source.loaded.method == "encoder":
        raise CheckpointError(
            f"{source.uri}: has no linear layer over the pooled features, so no class activation "
            "map: only --method ddt labels by it"
        )
    if method is None or method not in (made_for, "ddt"):
        raise CheckpointError(
            f"{source.uri}: a checkpoint of method {source.loaded.method!r}, which "
            f"--method {config.method} cannot label by"
        )
    config.check_method(method)
    if config.write_decomposition and source.loaded.method in MULTI_LABEL:
        raise ValueError(
            "write_decomposition must be off for a checkpoint of images of several classes: "
            f"{source.uri} is of method {source.loaded.method!r}"
        )
    return method


def labels_column(config: LabelConfig, loaded: Checkpoint) -> Literal["none", "label", "labels"]:
    """The column by which shards must say the images' classes; the method is not ``auto``."""
    if config.method == "ddt":
        return "label" if config.ddt_scope == "class" else "none"
    if config.method not in ("cam", "bridging", "sipe") or config.classes != "true":
        return "none"
    return "labels" if loaded.method in MULTI_LABEL else "label"


def build(config: LabelConfig, loaded: Checkpoint, model: Any) -> Localizer:
    """The method of a config, which is neither ``auto`` nor ``ddt``, with its model."""
    of_labels, keeps_views = config.classes == "true", config.merges_at_image
    if loaded.method in MULTI_LABEL:
        classes = Classes(loaded.classes, of_labels=of_labels, keeps_views=keeps_views)
        if config.method == "sipe":
            return SipeLocalizer(model, classes, maps=config.sipe_maps)
        return MultiLabelLocalizer(model, classes)
    match config.method:
        case "c2am":
            return C2AMLocalizer(model, Polarity(loaded.polarity), keeps_views=keeps_views)
        case "saliency":
            return SaliencyLocalizer(model, keeps_views=keeps_views)
        case "cam" | "bridging":
            return ClassLocalizer(
                model,
                loaded.classes,
                of_label=of_labels,
                with_factors=config.write_decomposition,
                keeps_views=keeps_views,
            )
        case "psol":
            return PSOLLocalizer(model)
        case _:
            raise ValueError(f"method must be resolved, got {config.method!r}")
