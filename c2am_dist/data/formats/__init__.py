"""Data sets as lists of items: one module a layout, none of which knows Ray."""

from collections.abc import Callable

from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import coco, cub, folder, imagenet, voc, webdataset, yolo
from c2am_dist.data.formats.items import Blob, Boxes, BoxFile, Item, check_unique, split_of

__all__ = ["Blob", "BoxFile", "Boxes", "Item", "list_items"]

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
        FileNotFoundError: the input or its annotations are not there; the message names them.
        ValueError: not laid out as ``config.format`` says, without images, with a duplicate
            id or path, or without the split asked for; the message names the culprit.
    """
    items = split_of(_LISTINGS[config.format](config), config.split)
    if not items:
        raise ValueError(f"{', '.join(config.input)}: no image found ({config.format} layout)")
    check_unique(items)
    return sorted(items, key=lambda item: item.image_id)
