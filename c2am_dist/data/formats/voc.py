"""PASCAL VOC: JPEGImages, Annotations, SegmentationClass and ImageSets, or a part of them."""

import functools

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import (
    Blob,
    BoxFile,
    Item,
    by_stem,
    files_below,
    images_in,
    read_lines,
)
from c2am_dist.data.formats.pascal import parse_xml

# Boxes count pixels from 1 and include the last (VOC devkit, section "Annotation").
_parse = functools.partial(parse_xml, first_pixel=1)


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of one or more VOC folders (VOC2012, or VOCdevkit with several inside).

    image_id is the file's stem. ``config.split`` names a list: ``train`` is that of
    ImageSets/Main, or of ImageSets/Segmentation where only that exists;
    ``Segmentation/train`` says which. Without it all images are taken, each in the split
    (train, val or test) whose list in Main names it.
    """
    items = []
    for uri in config.input:
        files = files_below(uri)
        bases = sorted({p.split("JPEGImages/")[0] for p in images_in(files) if _is_image(p)})
        if not bases:
            raise FileNotFoundError(f"{uri}: no image in a folder JPEGImages")
        for base in bases:
            below = {p.removeprefix(base): b for p, b in files.items() if p.startswith(base)}
            items += _list_year(storage.join(uri, base).rstrip("/"), below, config.split)
    return items


def _is_image(path: str) -> bool:
    return "JPEGImages" in path.split("/")[:-1]


def _list_year(root: str, files: dict[str, Blob], split: str | None) -> list[Item]:
    images = _folder(by_stem(files), "JPEGImages")
    annotations = _folder(by_stem(files, [".xml"]), "Annotations")
    masks = _folder(by_stem(files, [".png"]), "SegmentationClass")
    splits = _splits(files, split)
    items = []
    for image_id in images if split is None else splits:
        xml = annotations.get(image_id)
        missing = Blob(storage.join(root, "JPEGImages", f"{image_id}.jpg"), 0)
        items.append(
            Item(
                image_id=image_id,
                image=images.get(image_id, missing),
                boxes=BoxFile(xml, _parse) if xml else None,
                mask=masks.get(image_id),
                split=splits.get(image_id),
            )
        )
    return items


def _folder(files: dict[str, Blob], name: str) -> dict[str, Blob]:
    return {
        path.removeprefix(name + "/"): blob
        for path, blob in files.items()
        if path.startswith(name + "/")
    }


def _splits(files: dict[str, Blob], wanted: str | None) -> dict[str, str]:
    """The split of each image that a list names.

    Raises:
        ValueError: the list asked for is not there; the message names those that are.
    """
    lists = _folder(by_stem(files, [".txt"]), "ImageSets")
    if wanted is None:
        names = {name: f"Main/{name}" for name in ("train", "val", "test")}
    else:
        paths = [wanted] if "/" in wanted else [f"Main/{wanted}", f"Segmentation/{wanted}"]
        found = [path for path in paths if path in lists]
        if lists and not found:
            raise ValueError(f"split: no list {wanted!r} in ImageSets, only {sorted(lists)}")
        names = {wanted: found[0]} if found else {}
    return {
        line.split()[0]: name
        for name, path in names.items()
        if path in lists
        for line in read_lines(lists[path].uri)
        if not line.endswith(" -1")  # a class's list marks images without it
    }
