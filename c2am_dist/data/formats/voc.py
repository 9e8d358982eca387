"""PASCAL VOC: JPEGImages, Annotations, SegmentationClass and ImageSets, or a part of them.

With SegmentationClassAug and the list train_aug beside them it is VOC 2012 with the masks of SBD
(Hariharan et al., ICCV 2011), as segmentation is trained on.
"""

import functools
from typing import NamedTuple

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data import label_map_files
from c2am_dist.data.formats.items import (
    Blob,
    BoxFile,
    Item,
    by_stem,
    files_below,
    images_in,
    read_lines,
    stem,
)
from c2am_dist.data.formats.pascal import parse_xml
from c2am_dist.method.label_maps import VOC, LabelMap

# Boxes count pixels from 1 and include the last (VOC devkit, section "Annotation").
_parse = functools.partial(parse_xml, first_pixel=1)
_MASKS, _AUGMENTED_MASKS = "SegmentationClass", "SegmentationClassAug"
_AUGMENTED_LISTS = ("train_aug", "trainaug")


class _Listed(NamedTuple):
    """An image in a list."""

    split: str
    mask: str | None = None
    """Path of the mask, where the list names it."""


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of one or more VOC folders (VOC2012, or VOCdevkit with several inside).

    image_id is the file's stem. ``config.split`` names a list: ``train`` is that of
    ImageSets/Main, or of ImageSets/Segmentation where only that exists;
    ``Segmentation/train`` says which. Without it all images are taken, each in the split
    (train, val or test) whose list in Main names it. Lists hold ids, or paths of image and mask.

    A mask is the file that the list names, else that of SegmentationClass, and for train_aug
    that of SegmentationClassAug, which holds VOC's own masks, too; where the folder lacks it, the
    other's. Ids of masks are VOC's, or those of a classes.txt in the folder.
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
    masks = by_stem(files, [".png"])
    mask_labels = _mask_labels(files)
    lists = _listed(files, split)
    items = []
    for image_id in images if split is None else lists:
        xml = annotations.get(image_id)
        missing = Blob(storage.join(root, "JPEGImages", f"{image_id}.jpg"), 0)
        items.append(
            Item(
                image_id=image_id,
                image=images.get(image_id, missing),
                boxes=BoxFile(xml, _parse) if xml else None,
                mask=_mask(root, masks, image_id, lists.get(image_id)),
                mask_labels=mask_labels,
                split=lists[image_id].split if image_id in lists else None,
            )
        )
    return items


def _folder(files: dict[str, Blob], name: str) -> dict[str, Blob]:
    return {
        path.removeprefix(name + "/"): blob
        for path, blob in files.items()
        if path.startswith(name + "/")
    }


def _mask_labels(files: dict[str, Blob]) -> LabelMap:
    if "classes.txt" in files:
        return label_map_files.read(files["classes.txt"].uri)
    return VOC


def _mask(root: str, masks: dict[str, Blob], image_id: str, listed: _Listed | None) -> Blob | None:
    """The mask of an image; what its list names and is not there is found when it is read."""
    folders = [_MASKS, _AUGMENTED_MASKS]
    if listed and listed.split.split("/")[-1] in _AUGMENTED_LISTS:
        folders.reverse()
    paths = [f"{folder}/{image_id}" for folder in folders]
    if listed and listed.mask:
        paths.insert(0, listed.mask.removesuffix(".png"))
    found = next((masks[path] for path in paths if path in masks), None)
    folder = listed.mask.split("/")[0] if listed and listed.mask else ""
    if found is None and _folder(masks, folder):  # not by the list's path, which may lead out
        return Blob(storage.join(root, folder, f"{image_id}.png"), 0)
    return found


def _listed(files: dict[str, Blob], wanted: str | None) -> dict[str, _Listed]:
    """What the lists say of each image that they name.

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
    return dict(
        _read_line(line, name)
        for name, path in names.items()
        if path in lists
        for line in read_lines(lists[path].uri)
        if not line.endswith(" -1")  # a class's list marks images without it
    )


def _read_line(line: str, split: str) -> tuple[str, _Listed]:
    """``2007_000032``, or ``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png``."""
    first, *rest = line.split()
    if "JPEGImages/" not in first:
        return first, _Listed(split)
    return stem(first), _Listed(split, rest[0].lstrip("/") if rest else None)
