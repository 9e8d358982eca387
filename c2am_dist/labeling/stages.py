"""What happens to a block: decode (tasks) -> forward (model actors) -> label rows (tasks).

Every function here runs on a worker.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import ray
import torch

from c2am_dist import __version__, names, schema, storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.localizers import Localizer, View
from c2am_dist.method import boxes, cues, ddt, encoders, images, views
from c2am_dist.method.activation import Polarity

COLUMNS = ("image_id", "image")
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
    polarity: Polarity | None
    """None, like its margin, where the method's maps have none: they are bright on the object."""
    polarity_margin: float | None
    checkpoint_sha256: str
    config_json: str
    config_sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How images are decoded."""

    sizes_px: tuple[int, ...]
    """Sides of the squares that each becomes."""
    batch_size: int
    max_pixels: float
    labels: Literal["none", "needed", "if any"] = "none"
    """Whether to read the column ``label``, too; ``if any`` gives nulls where there is none."""
    keep_aspect: bool = False
    """Cut the square out of the middle; else the image is squeezed into it."""


def decode_run(run: pa.Table, decoding: Decoding) -> Iterator[Batch]:
    """The decoded images of a run, one batch at a time."""
    (row,) = run.to_pylist()
    groups = [RowGroup(row["uri"], index, num_rows=row["num_rows"]) for index in row["indices"]]
    columns = columns_of(row["uri"], decoding)
    size, pending = decoding.batch_size, None
    for table in _read(groups, columns):
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= size:
            yield decode_batch(pending[:size], row["uri"], decoding)
            pending = pending[size:]
    if pending is not None and pending.num_rows:
        yield decode_batch(pending, row["uri"], decoding)


def columns_of(uri: str, decoding: Decoding) -> list[str]:
    """What to read of a shard."""
    is_there = decoding.labels == "needed" or (
        decoding.labels == "if any" and "label" in shards.read_schema(uri).names
    )
    return [*COLUMNS, *(["label"] if is_there else [])]


def _read(groups: Sequence[RowGroup], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Row groups, each read while the one before is decoded: so two are in memory."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shards.read, groups[0], columns)
        for following in groups[1:]:
            table = reading.result()
            reading = pool.submit(shards.read, following, columns)
            yield table
        yield reading.result()


def decode_batch(table: pa.Table, uri: str, decoding: Decoding) -> Batch:
    """Squares ``pixels_0``, ... at each size (uint8 n px px 3), and what is known of the images.

    An image that cannot be decoded, or whose id is none, keeps its place with zero pixels and
    its ``error`` set.
    """
    num_images, sizes_px = table.num_rows, decoding.sizes_px
    squared = images.resize_middle if decoding.keep_aspect else images.resize_square
    pixels = [np.zeros((num_images, px, px, 3), np.uint8) for px in sizes_px]
    sizes, errors = np.zeros((2, num_images), np.int32), [""] * num_images
    for i, row in enumerate(table.to_pylist()):
        data = row["image"]
        try:
            names.check(row["image_id"], "image_id")
            sizes[:, i] = images.header(data)
            image = images.decode(data, min_side_px=max(sizes_px), max_pixels=decoding.max_pixels)
            for squares in pixels:
                squares[i] = squared(image, squares.shape[1])
        except ValueError as error:
            errors[i] = str(error)
    known: Batch = {}
    if "label" in table.column_names:
        known["label"] = table["label"].to_numpy()
    elif decoding.labels == "if any":
        known["label"] = np.full(num_images, None, dtype=object)
    return {
        "image_id": table["image_id"].to_numpy(),
        **known,
        "shard": np.full(num_images, storage.name(uri)),
        "height": sizes[0],
        "width": sizes[1],
        "error": np.array(errors),
        **{f"pixels_{k}": squares for k, squares in enumerate(pixels)},
    }


class BatchActor(Protocol):
    """What runs a model on batches, on one device."""

    def __call__(self, block: Batch) -> Batch:
        """The block with what the model finds in place of ``pixels_0``, ..."""
        ...


class ModelActor:
    """Turns the pixels of a block into what a method finds in them, batch by batch.

    Args:
        localizer: reference to the method with its model, one object for all actors.
        config: scales, batch size, mirroring and precision.
        num_threads: threads for the forward pass where there is no GPU. Several add up in another
            order than one, so labels, whose last bits must not depend on the cluster, take one.
    """

    def __init__(
        self, localizer: "ray.ObjectRef[Localizer]", config: LabelConfig, num_threads: int = 1
    ) -> None:
        self._num_threads = num_threads
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._localizer = ray.get(localizer)
        self._localizer.model.to(self._device, memory_format=torch.channels_last)  # type: ignore
        self._config = config

    def __call__(self, block: Batch) -> Batch:
        """The block with what :meth:`Localizer.locate` finds in place of pixels."""
        # Ray Data calls from another thread than it constructs in, and OpenMP's number of
        # threads belongs to the calling thread.
        torch.set_num_threads(self._num_threads)
        pixels = [block.pop(f"pixels_{k}") for k in range(len(self._config.scales))]
        step = self._config.batch_size
        found = [
            self._locate(
                [each[start : start + step] for each in pixels],
                {name: values[start : start + step] for name, values in block.items()},
            )
            for start in range(0, len(pixels[0]), step)
        ]
        return {**block, **{name: np.concatenate([f[name] for f in found]) for name in found[0]}}

    @torch.inference_mode()
    def _locate(self, pixels: Sequence[np.ndarray], known: Batch) -> Batch:
        is_bf16 = self._config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bf16):
            return self._localizer.locate(self._views(pixels), known)

    def _views(self, pixels: Sequence[np.ndarray]) -> Iterator[View]:
        """The images at each scale, then mirrored."""
        for scale, squares in zip(self._config.scales, pixels, strict=True):
            batch = torch.tensor(squares).to(self._device, non_blocking=True)
            batch = encoders.normalise(batch)
            yield View(batch, scale, is_mirrored=False)
            if self._config.flip:
                yield View(batch.flip(3), scale, is_mirrored=True)


def label_rows(
    block: Mapping[str, np.ndarray], *, config: LabelConfig, provenance: Provenance
) -> pa.Table:
    """The label rows of a block."""
    common = {
        "polarity": provenance.polarity and provenance.polarity.value,
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
    activation = block["activation"][i]
    if not np.isfinite(activation).all():
        return {"error": "the activation map is not finite"}
    row = _labels(activation, size, config, provenance)
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
        "activation_map": _png(activation, config.write_maps, size, images.encode_png16),
        "background_cue": _png(
            cues.background_cue(activation), config.write_cues, size, images.encode_png8
        ),
    }


def _component(
    activation: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """DDT's box, its score (the map's mean over the component) and the share of positive cells."""
    found = ddt.ddt_box(activation, size)
    inside = ddt.largest_component(activation > 0)
    score = np.array([activation[inside].mean()] if len(found) else [])
    return found, score, float((activation > 0).mean())


def _structs(found: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    names = ("x0", "y0", "x1", "y1", "score")
    return [
        dict(zip(names, (*box, score), strict=True))
        for box, score in zip(found.tolist(), scores.tolist(), strict=True)
    ]


def _png(
    values: np.ndarray, where: str, size: tuple[int, int], encode: Callable[[np.ndarray], bytes]
) -> bytes | None:
    if where == "none":
        return None
    return encode(cues.enlarge(values, size) if where == "image" else values)
