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


CUE_STEP = 4
"""Pixels of a view for one of its cue: the cells of the network that learns cues, which says
nothing of smaller ones. What is sent grows by 2% instead of 33%."""


class Views(NamedTuple):
    """Training samples."""

    pixels: np.ndarray
    """uint8, n crop_px crop_px 3."""
    donors: np.ndarray
    """int, n: whose image each is: its own but where that could not be decoded."""
    boxes: np.ndarray | None = None
    """float32, n 4: relative, where there are any."""
    is_visible: np.ndarray | None = None
    """bool, n: whether the view shows the box."""
    cues: np.ndarray | None = None
    """uint8, n q q: each view's background cue, 255 = background; q is crop_px / 4, rounded up."""
    is_known: np.ndarray | None = None
    """bool, n: whether there is a cue."""


def views_of(
    image_ids: Sequence[str],
    encoded: pa.BinaryArray,
    epoch: int,
    *,
    data: DataConfig,
    seed: int,
    boxes: StoredBoxes | None = None,
    cues: pa.BinaryArray | None = None,
) -> Views:
    """Decoded, augmented images; those that cannot be decoded are replaced by the next good one.

    Args:
        image_ids: of the images.
        encoded: the images.
        epoch: of the run.
        data: how they are augmented.
        seed: of the run.
        boxes: the images', which are carried along.
        cues: the images' 8-bit PNGs, of any size, which are carried along; null where unknown.

    Raises:
        ImageError: not a single one can be decoded; names one.
        ValueError: a cue cannot; names its image.
    """
    pixels = np.empty((len(image_ids), data.crop_px, data.crop_px, 3), np.uint8)
    is_valid, seen = np.ones(len(image_ids), bool), list[View | None]()
    for i, image_id in enumerate(image_ids):
        try:
            pixels[i], view = _view(encoded[i].as_py(), image_id, epoch, data=data, seed=seed)
        except images.ImageError as error:
            is_valid[i], view = False, None
            shown = names.printable(f"{image_id:.200}"), names.printable(str(error))
            logger.warning("image %s is replaced: %s", *shown)
        seen.append(view)
    donors = _donors(is_valid, image_ids)
    pixels[~is_valid] = pixels[donors[~is_valid]]
    found = Views(pixels, donors)
    if boxes is not None:
        relative, is_visible = _boxes_in(seen, boxes)
        found = found._replace(boxes=relative[donors], is_visible=is_visible[donors])
    if cues is not None:
        shown_cues, is_known = _cues_in(seen, cues, image_ids, data.crop_px)
        found = found._replace(cues=shown_cues[donors], is_known=is_known[donors])
    return found


def _boxes_in(seen: Sequence[View | None], boxes: StoredBoxes) -> tuple[np.ndarray, np.ndarray]:
    """The boxes as views show them, and whether they do; 0 without a view."""
    relative, is_visible = np.zeros((len(seen), 4), np.float32), np.zeros(len(seen), bool)
    for i, view in enumerate(seen):
        if view is not None:
            size = (int(boxes.sizes[i, 0]), int(boxes.sizes[i, 1]))
            (relative[i],), (is_visible[i],) = views.relative_boxes(
                boxes.edges[i : i + 1], size, view
            )
    return relative, is_visible


def _cues_in(
    seen: Sequence[View | None], cues: pa.BinaryArray, image_ids: Sequence[str], crop_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """The cues as views show them, and whether there is one; 0 without a view."""
    side_px = -(-crop_px // CUE_STEP)
    shown, is_known = np.zeros((len(seen), side_px, side_px), np.uint8), np.zeros(len(seen), bool)
    for i, view in enumerate(seen):
        if view is not None and cues[i].is_valid:
            shown[i], is_known[i] = _cue(cues[i].as_py(), image_ids[i], view, side_px), True
    return shown, is_known


def _cue(encoded: bytes, image_id: str, view: View, side_px: int) -> np.ndarray:
    try:
        cue = images.decode_png8(encoded)
    except images.ImageError as error:
        raise ValueError(f"data.cues: the cue of image {image_id!r}: {error}") from error
    small = images.resize_square(images.cut_view(cue, view), side_px)
    return np.rint(small * 255).astype(np.uint8)


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
