"""An item's mask as the shard holds it: PNG of class ids, at the image's size."""

from collections.abc import Sequence

import cv2
import numpy as np

from c2am_dist.data.formats import Item, Regions
from c2am_dist.data.formats.regions import draw
from c2am_dist.method import images
from c2am_dist.method.confusion import IGNORED
from c2am_dist.method.label_maps import LabelMap, encode_mask

Array = np.ndarray


def read(
    item: Item, data: bytes | None, size: tuple[int, int]
) -> tuple[bytes | None, Sequence[str] | None]:
    """The mask of an image of this (height, width) as PNG, and its classes; None where unknown.

    A PNG of ids is kept byte by byte. One in VOC's colours, and any other file of one channel,
    becomes PNG of ids; what is made of annotations is drawn.

    Args:
        item: what the mask is of.
        data: the mask file's content, where there is one.
        size: of the image.

    Raises:
        ValueError: the mask cannot be read or drawn, or is of another size; the message says why.
    """
    try:
        if isinstance(item.mask, Regions):
            return encode_mask(draw(item.mask, size)), None
        if data is None:
            return None, None
        ids = _agreed(data) if item.is_agreement_mask else images.decode_mask(data)
        if ids.shape != size:
            raise ValueError(f"{ids.shape[1]}x{ids.shape[0]}, but the image is {size[1]}x{size[0]}")
    except ValueError as error:
        raise ValueError(f"mask: {error}") from error
    is_kept = not item.is_agreement_mask and images.is_png_of_ids(data)
    png = data if is_kept else cv2.imencode(".png", ids)[1].tobytes()
    return png, None if item.mask_labels is None else _classes(ids, item.mask_labels)


def _agreed(data: bytes) -> Array:
    """1 where most annotators drew foreground, 0 elsewhere."""
    return (images.decode(data)[..., 0] >= 128).astype(np.uint8)


def _classes(ids: Array, label_map: LabelMap) -> list[str] | None:
    """The classes of a mask; None if it holds an id that the label map does not have."""
    names = dict(zip(label_map.published_ids, label_map.names, strict=True))
    there = set(np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist()) - {0, IGNORED}
    return sorted(names[i] for i in there) if there <= names.keys() else None
