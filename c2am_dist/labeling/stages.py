"""What happens to a block: decode (tasks) -> forward (model actors) -> label rows (tasks).

Every function here runs on a worker.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from c2am_dist import __version__, names, schema, storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.method import activation as maps
from c2am_dist.method import boxes, cues, encoders, images
from c2am_dist.method.activation import Polarity
from c2am_dist.method.c2am import C2AM

_COLUMNS = ("image_id", "image")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What all rows of a job have in common."""

    method: str
    """The checkpoint's."""
    threshold: float | None
    """Share of the map's maximum; None: chosen for each image by Otsu's rule."""
    threshold_source: str
    polarity: Polarity
    polarity_margin: float
    checkpoint_sha256: str
    config_json: str
    config_sha256: str


def decode_run(
    run: pa.Table, *, sizes_px: Sequence[int], batch_size: int, max_pixels: float
) -> Iterator[dict[str, np.ndarray]]:
    """The decoded images of a run, one batch at a time."""
    (row,) = run.to_pylist()
    groups = [RowGroup(row["uri"], index, num_rows=row["num_rows"]) for index in row["indices"]]
    pending = None
    for table in _read(groups):
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= batch_size:
            yield _decode_batch(pending[:batch_size], row["uri"], sizes_px, max_pixels)
            pending = pending[batch_size:]
    if pending is not None and pending.num_rows:
        yield _decode_batch(pending, row["uri"], sizes_px, max_pixels)


def _read(groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
    """Row groups, each read while the one before is decoded: so two are in memory."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shards.read, groups[0], _COLUMNS)
        for following in groups[1:]:
            table = reading.result()
            reading = pool.submit(shards.read, following, _COLUMNS)
            yield table
        yield reading.result()


def _decode_batch(
    table: pa.Table, uri: str, sizes_px: Sequence[int], max_pixels: float
) -> dict[str, np.ndarray]:
    """Squares ``pixels_0``, ... at each size (uint8 n px px 3), and what is known of the images.

    An image that cannot be decoded, or whose id is none, keeps its place with zero pixels and
    its ``error`` set.
    """
    num_images = table.num_rows
    pixels = [np.zeros((num_images, px, px, 3), np.uint8) for px in sizes_px]
    sizes, errors = np.zeros((2, num_images), np.int32), [""] * num_images
    for i, row in enumerate(table.to_pylist()):
        data = row["image"]
        try:
            names.check(row["image_id"], "image_id")
            sizes[:, i] = images.header(data)
            image = images.decode(data, min_side_px=max(sizes_px), max_pixels=max_pixels)
            for squares in pixels:
                squares[i] = images.resize_square(image, squares.shape[1])
        except ValueError as error:
            errors[i] = str(error)
    return {
        "image_id": table["image_id"].to_numpy(),
        "shard": np.full(num_images, storage.name(uri)),
        "height": sizes[0],
        "width": sizes[1],
        "error": np.array(errors),
        **{f"pixels_{k}": squares for k, squares in enumerate(pixels)},
    }


class ModelActor:
    """Turns the pixels of a block into foreground activation maps, batch by batch.

    Args:
        model: reference to the model, one object for all actors.
        config: batch size, mirroring and precision.
        polarity: what the model's raw map highlights.
        num_threads: threads for the forward pass where there is no GPU. Several add up in another
            order than one, so labels, whose last bits must not depend on the cluster, take one.
    """

    def __init__(
        self,
        model: "ray.ObjectRef[C2AM]",
        config: LabelConfig,
        polarity: Polarity,
        num_threads: int = 1,
    ) -> None:
        self._num_threads = num_threads
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = ray.get(model).to(self._device)
        self._model.to(memory_format=torch.channels_last)  # type: ignore
        self._config = config
        self._polarity = polarity

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The block with ``activation`` (float32 n h w, in [0, 1]) in place of pixels."""
        # Ray Data calls from another thread than it constructs in, and OpenMP's number of
        # threads belongs to the calling thread.
        torch.set_num_threads(self._num_threads)
        pixels = [block.pop(f"pixels_{k}") for k in range(len(self._config.scales))]
        step = self._config.batch_size
        activations = [
            self._activation([torch.tensor(p[start : start + step]) for p in pixels])
            for start in range(0, len(pixels[0]), step)
        ]
        return {**block, "activation": torch.cat(activations)[:, 0].cpu().numpy()}

    @torch.inference_mode()
    def _activation(self, pixels: Sequence[Tensor]) -> Tensor:
        """The maps n 1 h w of images given at each scale; h and w are the largest scale's."""
        found: list[Tensor] = []
        for squares in pixels:
            batch = encoders.normalise(squares.to(self._device, non_blocking=True))
            found.append(self._oriented(batch))
            if self._config.flip:
                found.append(self._oriented(batch.flip(3)).flip(3))
        # A lone map stays as the model gave it: its values are what confidence is about.
        if len(found) == 1:
            return found[0]
        height = max(activation.shape[2] for activation in found)
        return maps.merge_scales(found, (height, height))

    def _oriented(self, batch: Tensor) -> Tensor:
        is_bf16 = self._config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bf16):
            _, _, activation = self._model(batch)
        return maps.orient(activation.float(), self._polarity)


def label_rows(
    block: Mapping[str, np.ndarray], *, config: LabelConfig, provenance: Provenance
) -> pa.Table:
    """The label rows of a block."""
    common = {
        "polarity": provenance.polarity.value,
        "polarity_margin": provenance.polarity_margin,
        "checkpoint_sha256": provenance.checkpoint_sha256,
        "config_sha256": provenance.config_sha256,
        "package_version": __version__,
    }
    rows = []
    for i, activation in enumerate(block["activation"]):
        row = {name: block[name][i] for name in ("image_id", "shard")} | common
        size = (int(block["height"][i]), int(block["width"][i]))
        if min(size) > 0:
            row |= {"height": size[0], "width": size[1]}
        error = str(block["error"][i])
        if not error and not np.isfinite(activation).all():
            error = "the activation map is not finite"
        row |= {"error": error} if error else _labels(activation, size, config, provenance)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.LABELS)


def _labels(
    activation: np.ndarray, size: tuple[int, int], config: LabelConfig, provenance: Provenance
) -> dict[str, Any]:
    """What the map (h w, in [0, 1]) of an image of a size (height, width) says."""
    threshold = provenance.threshold
    if threshold is None:
        threshold = boxes.otsu_threshold(activation)
    found, scores = boxes.pseudo_boxes(
        activation, threshold=threshold, image_size=size, max_boxes=config.max_boxes
    )
    return {
        "pseudo_boxes": [
            dict(zip(("x0", "y0", "x1", "y1", "score"), (*box, score), strict=True))
            for box, score in zip(found.tolist(), scores.tolist(), strict=True)
        ],
        "foreground_fraction": float((boxes.to_protocol(activation) > threshold).mean()),
        "confidence": float(np.abs(2 * activation - 1).mean()),
        "threshold": threshold,
        "threshold_source": provenance.threshold_source,
        "activation_map": _png(activation, config.write_maps, size, images.encode_png16),
        "background_cue": _png(
            cues.background_cue(activation), config.write_cues, size, images.encode_png8
        ),
    }


def _png(
    values: np.ndarray, where: str, size: tuple[int, int], encode: Callable[[np.ndarray], bytes]
) -> bytes | None:
    if where == "none":
        return None
    return encode(cues.enlarge(values, size) if where == "image" else values)
