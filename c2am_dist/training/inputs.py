"""What a run reads before its first step, and what several runs may share: read once."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import ray
from torch import Tensor

from c2am_dist import checkpoint, storage
from c2am_dist.config import TrainConfig
from c2am_dist.data import cue_sets, plan, pseudo_boxes, shards
from c2am_dist.data.cue_sets import CueSets
from c2am_dist.data.pseudo_boxes import PseudoBoxes
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import encoders
from c2am_dist.method.weights import (
    linear_layer,
    load_weights,
    read_state_dict,
    torchvision_state_dict,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LastLayer:
    """Of the weights, over the encoder's pooled features."""

    num_outputs: int
    classes: Sequence[str]
    """What a checkpoint of this package calls them; else empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The located images of a run and the weights that its encoder starts from."""

    row_groups: list[RowGroup]
    """All of the shards', before ``data.limit``; with PSOL those of images with a box."""
    encoder_weights: "ray.ObjectRef[dict[str, Tensor] | None]"
    """Reference to the encoder's state dict, or to None for random weights."""
    has_weights: bool
    weights_sha256: str
    """Digest of the weights' file; empty for torchvision's and random ones."""
    boxes: "ray.ObjectRef[PseudoBoxes | None]"
    """Reference to the pseudo boxes, or to None where the method learns none."""
    boxes_sha256: str = ""
    """Their digest; empty without any."""
    cues: "ray.ObjectRef[CueSets | None]"
    """Reference to where the background cues lie, or to None where the method learns none."""
    cues_sha256: str = ""
    """Their digest; empty without any."""
    last_layer: LastLayer | None = None
    """Of the weights, where they have one."""


def read_inputs(config: TrainConfig) -> Inputs:
    """Lists the shards and reads the weights; needs a connection to Ray.

    Runs whose ``method``, ``data.train``, ``data.boxes``, ``data.cues``, ``model.encoder`` and
    ``model.weights`` agree have the same inputs.

    Raises:
        FileNotFoundError, ValueError: the shards, the label sets or the weights are unusable;
            names the culprit.
    """
    row_groups, boxes, cues = find_images(config)
    weights, sha256, last_layer = _encoder_weights(config)
    return Inputs(
        row_groups=row_groups,
        encoder_weights=ray.put(weights),
        has_weights=weights is not None,
        weights_sha256=sha256,
        last_layer=last_layer,
        boxes=ray.put(boxes),
        boxes_sha256=boxes.sha256() if boxes is not None else "",
        cues=ray.put(cues),
        cues_sha256=cues.sha256 if cues is not None else "",
    )


class FoundImages(NamedTuple):
    """The images to train on, and where what the method learns of them is beside the shards."""

    row_groups: list[RowGroup]
    boxes: PseudoBoxes | None
    cues: CueSets | None


def find_images(config: TrainConfig) -> FoundImages:
    """The row groups to train on, and their images' boxes or cues where the method learns them.

    Raises:
        FileNotFoundError, ValueError: as :func:`shards.index`, :func:`pseudo_boxes.join` and
            :func:`cue_sets.join`.
    """
    row_groups = shards.index(_absolute(config.data.train), columns=_columns(config))
    if config.method == "psol":
        joined = pseudo_boxes.join(row_groups, _absolute(config.data.boxes))
        print(joined)
        return FoundImages(joined.row_groups, joined.boxes, None)
    if config.method == "saliency":
        cues = cue_sets.join(row_groups, _absolute(config.data.cues))
        print(cues)
        return FoundImages(row_groups, None, cues)
    return FoundImages(row_groups, None, None)


def _columns(config: TrainConfig) -> list[str]:
    """Of the shards, what the method needs."""
    columns = ["image_id", "image"]
    if config.needs_labels:
        columns.append("label")
    if config.needs_label_lists:
        columns.append("labels")
    return columns


def find_classes(config: TrainConfig, row_groups: Sequence[RowGroup]) -> list[str]:
    """The classes of a run in the order of its outputs; none where the method knows none.

    Raises:
        ValueError: as :func:`shards.classes_of` and :func:`shards.classes_of_lists`.
    """
    if config.needs_label_lists:
        return shards.classes_of_lists(row_groups)
    return shards.classes_of(row_groups) if config.needs_labels else []


def _absolute(uris: Sequence[str]) -> list[str]:
    return [storage.absolute(uri) for uri in uris]


def num_steps(config: TrainConfig, row_groups: Sequence[RowGroup]) -> tuple[int, int]:
    """Steps of an epoch, and of the whole run, over limited row groups."""
    per_epoch = plan.steps_per_epoch(row_groups, batch_size=config.optim.batch_size)
    total_steps = math.ceil(per_epoch * config.optim.epochs)
    if config.optim.max_steps is not None:
        total_steps = min(total_steps, config.optim.max_steps)
    return per_epoch, total_steps


def check_last_layer(config: TrainConfig, found: LastLayer | None, classes: Sequence[str]) -> None:
    """Raises ValueError when the weights' last layer is wanted and is not of these classes."""
    if config.model.last_layer == "new":
        return
    uri = config.model.weights
    if found is None:
        raise ValueError(
            f"model.last_layer: {uri} has no linear layer over the features of "
            f"{config.model.encoder}"
        )
    if found.num_outputs != len(classes):
        raise ValueError(
            f"model.last_layer: {uri} has {found.num_outputs} outputs, and data.train "
            f"{len(classes)} classes"
        )
    if found.classes and list(found.classes) != list(classes):
        first = next(pair for pair in zip(found.classes, classes, strict=True) if len({*pair}) > 1)
        raise ValueError(
            f"model.last_layer: {uri} knows other classes than data.train has, such as "
            f"{first[0]!r} instead of {first[1]!r}"
        )


def _encoder_weights(
    config: TrainConfig,
) -> tuple[dict[str, Tensor] | None, str, LastLayer | None]:
    """The state dict ``model.weights`` names, checked against the encoder, and its SHA-256."""
    uri, classes = config.model.weights, list[str]()
    if uri == "none":
        return None, "", None
    if storage.exists(uri):
        if storage.info(uri).is_file:
            data = storage.read_bytes(uri)
            state, sha256 = read_state_dict(data, uri), hashlib.sha256(data).hexdigest()
        else:
            restored, sha256 = checkpoint.load(uri)
            state, classes = restored.model, restored.classes
    elif "/" in uri or "." in os.path.basename(uri).replace("_Weights.", ""):
        raise FileNotFoundError(f"model.weights: {uri}: no such file")
    else:
        state = torchvision_state_dict(config.model.encoder, uri)
        sha256 = ""
    encoder = encoders.build_encoder(config.model.encoder)
    try:
        report = load_weights(encoder, state)
    except ValueError as error:
        raise ValueError(f"model.weights: {uri}: {error}") from error
    print(
        f"{uri}: {len(report.matched)} keys matched, {len(report.missing)} missing, "
        f"{len(report.unexpected)} not of the encoder"
    )
    linear = linear_layer(state, encoder.num_last_features)
    last_layer = LastLayer(num_outputs=len(linear[1]), classes=classes) if linear else None
    return state, sha256, last_layer
