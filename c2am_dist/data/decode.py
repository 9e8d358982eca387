"""Encoded images and their boxes to what a network sees of them, in a decode task."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from c2am_dist import names
from c2am_dist.config import DataConfig
from c2am_dist.method import crops, images, views
from c2am_dist.method.views import View

logger = logging.getLogger(__name__)


class StoredBoxes(NamedTuple):
    """One box of each image, as pseudo_boxes holds them."""

    edges: np.ndarray
    """int32, n 4: half-open, in pixels of the stored image."""
    sizes: np.ndarray
    """int32, n 2: height and width of the stored image."""


class Views(NamedTuple):
    """Training samples."""

    pixels: np.ndarray
    """uint8, n crop_px crop_px 3."""
    donors: np.ndarray
    """int, n: whose image each is: its own but where that could not be decoded."""
    boxes: np.ndarray | None
    """float32, n 4: relative, where there are any."""
    is_visible: np.ndarray | None
    """bool, n: whether the view shows the box."""


def views_of(
    image_ids: Sequence[str],
    encoded: pa.BinaryArray,
    epoch: int,
    *,
    data: DataConfig,
    seed: int,
    boxes: StoredBoxes | None = None,
) -> Views:
    """Decoded, augmented images; those that cannot be decoded are replaced by the next good one.

    Raises:
        ImageError: not a single one can be decoded; names one.
    """
    pixels = np.empty((len(image_ids), data.crop_px, data.crop_px, 3), np.uint8)
    relative = np.zeros((len(image_ids), 4), np.float32)
    is_visible, is_valid = np.zeros(len(image_ids), bool), np.ones(len(image_ids), bool)
    for i, image_id in enumerate(image_ids):
        try:
            pixels[i], view = _view(encoded[i].as_py(), image_id, epoch, data=data, seed=seed)
        except images.ImageError as error:
            is_valid[i] = False
            shown = names.printable(f"{image_id:.200}"), names.printable(str(error))
            logger.warning("image %s is replaced: %s", *shown)
            continue
        if boxes is not None:
            assert view is not None
            size = (int(boxes.sizes[i, 0]), int(boxes.sizes[i, 1]))
            found, seen = views.relative_boxes(boxes.edges[i : i + 1], size, view)
            relative[i], is_visible[i] = found[0], seen[0]
    donors = _donors(is_valid, image_ids)
    pixels[~is_valid] = pixels[donors[~is_valid]]
    if boxes is None:
        return Views(pixels, donors, None, None)
    return Views(pixels, donors, relative[donors], is_visible[donors])


def _donors(is_valid: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    valid = np.flatnonzero(is_valid)
    if not len(valid):
        raise images.ImageError(
            f"none of {len(image_ids)} images of a part can be decoded, "
            f"{names.printable(f'{image_ids[0]:.200}')} among them"
        )
    return valid[np.searchsorted(valid, np.arange(len(image_ids))) % len(valid)]


def _view(
    encoded: Any, image_id: str, epoch: int, *, data: DataConfig, seed: int
) -> tuple[np.ndarray, View | None]:
    """A training sample and, unless it was resized at random, what it is of the image."""
    rng = images.augmentation_rng(seed, epoch, image_id)
    min_side_px = crops.min_side_px(data.crop_px) if data.random_resize else data.resize_px
    image = images.decode(encoded, min_side_px=min_side_px, max_pixels=data.max_megapixels * 1e6)
    if data.random_resize:
        return crops.augment(image, crop_px=data.crop_px, flip=data.flip, rng=rng), None
    view = views.draw_view(rng, resize_px=data.resize_px, crop_px=data.crop_px, flip=data.flip)
    return images.cut_view(image, view), view


def as_binary(array: np.ndarray) -> pa.Array:
    """The array's bytes as one value, not copied."""
    offsets = pa.py_buffer(np.array([0, array.nbytes]))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])
