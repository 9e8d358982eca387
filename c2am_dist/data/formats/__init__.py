"""Data sets as lists of items: one module a layout, none of which knows Ray."""

import dataclasses
from collections.abc import Callable

from c2am_dist import names, storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import coco, cub, folder, imagenet, voc, webdataset, yolo
from c2am_dist.data.formats.items import (
    Blob,
    Boxes,
    BoxFile,
    Item,
    by_stem,
    check_unique,
    files_below,
    split_of,
)
from c2am_dist.data.formats.regions import Regions

__all__ = ["Blob", "BoxFile", "Boxes", "Item", "Regions", "list_items"]

_LISTINGS: dict[str, Callable[[PrepareConfig], list[Item]]] = {
    "folder": folder.list_items,
    "imagenet": imagenet.list_items,
    "cub": cub.list_items,
    "voc": voc.list_items,
    "coco": coco.list_items,
    "yolo": yolo.list_items,
    "webdataset": webdataset.list_items,
}


def list_items(config: PrepareConfig) -> list[Item]:
    """The images of a data set and what is known of them, sorted by image_id.

    Images are not opened here: one that a list names and that is not there is found when it
    is read.

    Raises:
        FileNotFoundError: the input, its annotations or the masks are not there; the message
            names them.
        ValueError: not laid out as ``config.format`` says, without images, with a duplicate
            id or path, without the split asked for, or without a mask for any image in the
            folder of masks; the message names the culprit.
    """
    items = split_of(_LISTINGS[config.format](config), config.split)
    if not items:
        raise ValueError(f"{', '.join(config.input)}: no image found ({config.format} layout)")
    check_unique(items)
    items = sorted(items, key=lambda item: item.image_id)
    return items if config.masks is None else _with_masks(items, config.masks)


def _with_masks(items: list[Item], uri: str) -> list[Item]:
    """The items with the PNGs of a folder for masks, and with no others.

    They are called as `named_files.read` looks for them.
    """
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri}: no such folder (masks)")
    masks = by_stem(files_below(uri), [".png"])
    found = [masks.get(names.file_path(i.image_id)) or masks.get(i.image_id) for i in items]
    if not any(found):
        raise ValueError(
            f"{uri}: none of its {len(masks)} PNGs is called like an image, such as "
            f"{items[0].image_id}.png (masks)"
        )
    return [
        dataclasses.replace(item, mask=mask, is_agreement_mask=False)
        for item, mask in zip(items, found, strict=True)
    ]
