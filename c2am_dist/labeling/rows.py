"""What was found in images to rows of a file: what the tasks behind the actors do.

Without torch, as decode.py.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from c2am_dist import __version__, schema
from c2am_dist.config import LabelConfig
from c2am_dist.labeling.batches import Batch, unpack
from c2am_dist.labeling.found import Found, found_in
from c2am_dist.method import boxes, components, cues, images, views

DDT_RULE = "ddt"
"""``threshold_source`` of boxes around the largest component of positive heat."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What all rows of a job have in common."""

    method: str
    """Which labels."""
    threshold: float | None
    """Share of the map's maximum; None: chosen for each image by Otsu's rule."""
    threshold_source: str
    polarity: str | None
    """What raw P highlights; None, like its margin, where the method's maps have none: they are
    bright on the object."""
    polarity_margin: float | None
    checkpoint_sha256: str
    config_json: str
    config_sha256: str


def make_rows(batches: pa.Table, *, rows: Callable[[Batch], pa.Table]) -> pa.Table:
    """The rows of batches, which are a row each."""
    return pa.concat_tables(rows(batch) for batch in unpack(batches))


def label_rows(
    block: Mapping[str, np.ndarray], *, config: LabelConfig, provenance: Provenance
) -> pa.Table:
    """The label rows of a block."""
    common = {
        "polarity": provenance.polarity,
        "polarity_margin": provenance.polarity_margin,
        "checkpoint_sha256": provenance.checkpoint_sha256,
        "config_sha256": provenance.config_sha256,
        "package_version": __version__,
    }
    rows = []
    for i, error in enumerate(block["error"]):
        row = {name: block[name][i] for name in ("image_id", "shard")} | common
        size = (int(block["height"][i]), int(block["width"][i]))
        if min(size) > 0:
            row |= {"height": size[0], "width": size[1]}
        row |= {"error": str(error)} if error else _found(block, i, size, config, provenance)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.LABELS)


def _found(
    block: Mapping[str, np.ndarray],
    i: int,
    size: tuple[int, int],
    config: LabelConfig,
    provenance: Provenance,
) -> dict[str, Any]:
    """What a method says of image ``i``, of a size (height, width), or the error."""
    if "relative_box" in block:
        return _regressed(block["relative_box"][i], size, config)
    if not np.isfinite(block["activation"][i]).all():
        return {"error": "the activation map is not finite"}
    found = found_in(block, i)
    row = _labels(found.activation, size, config, provenance) | _maps(found, size, config)
    if config.refine_cues != "none":
        try:
            cue = _refined(found.cue_at(size), block["image"][i], config)
        except images.ImageError as error:
            return {"error": str(error)}
        row["background_cue"] = images.encode_png8(cue)
    if "class_name" in block:
        row["class_name"] = block["class_name"][i]
    for name in ("norm_map", "similarity_map"):
        if name in block:
            row[name] = images.encode_png16(block[name][i])
    return row


def _regressed(relative: np.ndarray, size: tuple[int, int], config: LabelConfig) -> dict[str, Any]:
    """A regressor's box: it has neither map nor threshold, and says nothing of its certainty."""
    if not np.isfinite(relative).all():
        return {"error": "the box is not finite"}
    assert config.size_px is not None
    side_px = config.sizes_px[0]
    view = views.centre_view(resize_px=side_px, crop_px=side_px)  # the whole image, as decoded
    box = views.pixel_boxes(views.image_boxes(relative[None], size, view), size)
    return {"pseudo_boxes": _structs(box, np.ones(1))}


def _labels(
    activation: np.ndarray, size: tuple[int, int], config: LabelConfig, provenance: Provenance
) -> dict[str, Any]:
    """What the map (h w, in [0, 1]) of an image of a size (height, width) says."""
    threshold = provenance.threshold
    if threshold is None:
        threshold = boxes.otsu_threshold(activation)
    if provenance.threshold_source == DDT_RULE:
        found, scores, fraction = _component(activation, size)
    else:
        found, scores = boxes.pseudo_boxes(
            activation, threshold=threshold, image_size=size, max_boxes=config.max_boxes
        )
        fraction = (boxes.to_protocol(activation) > threshold).mean()
    return {
        "pseudo_boxes": _structs(found, scores),
        "foreground_fraction": float(fraction),
        "confidence": float(np.abs(2 * activation - 1).mean()),
        "threshold": threshold,
        "threshold_source": provenance.threshold_source,
    }


def _maps(found: Found, size: tuple[int, int], config: LabelConfig) -> dict[str, Any]:
    """The maps to store of an image of a size (height, width), but for a cue to be refined."""
    row = dict[str, Any]()
    if config.write_maps != "none":
        is_own = config.write_maps == "map"
        row["activation_map"] = images.encode_png16(
            found.activation if is_own else found.activation_at(size)
        )
    if config.write_cues != "none" and config.refine_cues == "none":
        is_own = config.write_cues == "map"
        row["background_cue"] = images.encode_png8(
            cues.background_cue(found.activation) if is_own else found.cue_at(size)
        )
    if config.write_class_maps != "none":
        is_own = config.write_class_maps == "map"
        classes = found.classes if is_own else found.classes_at(size)
        row["class_maps"] = [
            {"class_name": name, "map": images.encode_png16(each)} for name, each in classes.items()
        ]
    return row


def _refined(cue: np.ndarray, data: bytes, config: LabelConfig) -> np.ndarray:
    """An image's cue along the image's edges.

    Raises:
        ImageError: the image is larger at its full size than may be decoded.
    """
    image = images.decode(data, max_pixels=config.max_megapixels * 1e6)
    if config.refine_cues == "guided":
        return cues.refine_by_filter(image, cue)
    threshold = None if config.cue_threshold == "otsu" else config.cue_threshold
    return cues.refine_by_crf(image, cue, threshold=threshold)


def _component(
    activation: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """DDT's box, its score (the map's mean over the component) and the share of positive cells."""
    found = components.component_box(activation, size)
    inside = components.largest_component(activation > 0)
    score = np.array([activation[inside].mean()] if len(found) else [])
    return found, score, float((activation > 0).mean())


def _structs(found: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    names = ("x0", "y0", "x1", "y1", "score")
    return [
        dict(zip(names, (*box, score), strict=True))
        for box, score in zip(found.tolist(), scores.tolist(), strict=True)
    ]


def prediction_rows(
    block: Mapping[str, np.ndarray], *, classes: Sequence[str], common: Mapping[str, str]
) -> pa.Table:
    """The prediction rows of a block; ``common`` is what all rows hold."""
    rows = []
    for i, error in enumerate(block["error"]):
        row: dict[str, Any] = {name: block[name][i] for name in ("image_id", "shard", "label")}
        probabilities = block["probabilities"][i]
        if not error and not np.isfinite(probabilities).all():
            error = "the probabilities are not finite"
        if error:
            row["error"] = str(error)
        else:
            row["classes"] = [classes[index] for index in block["class_index"][i]]
            row["probabilities"] = probabilities.tolist()
        rows.append({**row, **common})
    return pa.Table.from_pylist(rows, schema=schema.PREDICTIONS)
