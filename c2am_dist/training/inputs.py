"""What a run reads before its first step, and what several runs may share: read once."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence

import ray
from torch import Tensor

from c2am_dist import checkpoint, storage
from c2am_dist.config import TrainConfig
from c2am_dist.data import plan, pseudo_boxes, shards
from c2am_dist.data.pseudo_boxes import PseudoBoxes
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import encoders
from c2am_dist.method.weights import load_weights, read_state_dict, torchvision_state_dict


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


def read_inputs(config: TrainConfig) -> Inputs:
    """Lists the shards and reads the weights; needs a connection to Ray.

    Runs whose ``method``, ``data.train``, ``data.boxes``, ``model.encoder`` and ``model.weights``
    agree have the same inputs.

    Raises:
        FileNotFoundError, ValueError: the shards, the label sets or the weights are unusable;
            names the culprit.
    """
    row_groups, boxes = find_images(config)
    weights, sha256 = _encoder_weights(config)
    return Inputs(
        row_groups=row_groups,
        encoder_weights=ray.put(weights),
        has_weights=weights is not None,
        weights_sha256=sha256,
        boxes=ray.put(boxes),
        boxes_sha256=boxes.sha256() if boxes is not None else "",
    )


def find_images(config: TrainConfig) -> tuple[list[RowGroup], PseudoBoxes | None]:
    """The row groups to train on, and their images' boxes where the method learns them.

    Raises:
        FileNotFoundError, ValueError: as :func:`shards.index` and :func:`pseudo_boxes.join`.
    """
    columns = ["image_id", "image", *(["label"] if config.needs_labels else [])]
    row_groups = shards.index(_absolute(config.data.train), columns=columns)
    if config.method != "psol":
        return row_groups, None
    joined = pseudo_boxes.join(row_groups, _absolute(config.data.boxes))
    print(joined)
    return joined.row_groups, joined.boxes


def _absolute(uris: Sequence[str]) -> list[str]:
    return [storage.absolute(uri) for uri in uris]


def num_steps(config: TrainConfig, row_groups: Sequence[RowGroup]) -> tuple[int, int]:
    """Steps of an epoch, and of the whole run, over limited row groups."""
    per_epoch = plan.steps_per_epoch(row_groups, batch_size=config.optim.batch_size)
    total_steps = math.ceil(per_epoch * config.optim.epochs)
    if config.optim.max_steps is not None:
        total_steps = min(total_steps, config.optim.max_steps)
    return per_epoch, total_steps


def _encoder_weights(config: TrainConfig) -> tuple[dict[str, Tensor] | None, str]:
    """The state dict ``model.weights`` names, checked against the encoder, and its SHA-256."""
    uri = config.model.weights
    if uri == "none":
        return None, ""
    if storage.exists(uri):
        if storage.info(uri).is_file:
            data = storage.read_bytes(uri)
            state, sha256 = read_state_dict(data, uri), hashlib.sha256(data).hexdigest()
        else:
            restored, sha256 = checkpoint.load(uri)
            state = restored.model
    elif "/" in uri or "." in os.path.basename(uri).replace("_Weights.", ""):
        raise FileNotFoundError(f"model.weights: {uri}: no such file")
    else:
        state = torchvision_state_dict(config.model.encoder, uri)
        sha256 = ""
    try:
        report = load_weights(encoders.build_encoder(config.model.encoder), state)
    except ValueError as error:
        raise ValueError(f"model.weights: {uri}: {error}") from error
    print(
        f"{uri}: {len(report.matched)} keys matched, {len(report.missing)} missing, "
        f"{len(report.unexpected)} not of the encoder"
    )
    return state, sha256
