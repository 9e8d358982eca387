"""COCO's instances JSON beside a folder of images."""

import dataclasses
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import regions
from c2am_dist.data.formats.items import Blob, Boxes, Edges, Item, files_below, images_in, stem

Annotation = Mapping[str, Any]


def list_items(config: PrepareConfig) -> list[Item]:
    """The images that an instances JSON names.

    The JSON is ``config.annotations``, else ``annotations/instances_*.json`` below the input
    (that of ``config.split`` where there are several); images are found by ``file_name``
    below the input, in whatever folder. image_id is ``file_name`` without extension; the split
    is the JSON's name after ``instances_``. Crowd regions are no boxes and are left out of them,
    though not of the classes. An image without objects has an empty list of boxes. With
    ``config.draw_masks`` items hold the regions that masks are drawn from.

    Raises:
        FileNotFoundError: there is no such JSON, or there are several.
        ValueError: not COCO's instances format, which the message explains; masks are to be drawn
            and pycocotools is not installed.
    """
    if config.draw_masks:
        regions.check_drawable()
    if len(config.input) != 1:
        raise ValueError(f"input must be one folder for coco, got {len(config.input)}")
    files = files_below(config.input[0])
    uri = config.annotations or _find_json(config.input[0], files, config.split)
    try:
        content = json.loads(storage.read_bytes(uri))
        images, categories = content["images"], content["categories"]
        names = {category["id"]: str(category["name"]) for category in categories}
        annotations = _by_image(content.get("annotations", []))
        found = _Places(config.input[0], images_in(files))
        split = stem(uri).removeprefix("instances_") if "instances_" in uri else None
        items = []
        for image in images:
            there = annotations[image["id"]]
            mask = regions.pack(there, _frame(image)) if config.draw_masks else None
            item = _item(image, there, names, found)
            items.append(dataclasses.replace(item, mask=mask, split=config.split or split))
        return items
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: not COCO's instances format ({error!r})") from error


def _find_json(root: str, files: dict[str, Blob], split: str | None) -> str:
    found = [
        blob.uri
        for path, blob in files.items()
        if storage.name(path).startswith("instances_") and path.endswith(".json")
        if split is None
        or stem(path).removeprefix("instances_") in (split, f"{split}2014", f"{split}2017")
    ]
    if len(found) != 1:
        what = "several" if found else "no"
        raise FileNotFoundError(
            f"{root}: {what} instances_*.json below it; say --annotations (or --split)"
        )
    return found[0]


class _Places:
    """Where images lie: by path below the root, by unique file name, by path below a folder."""

    def __init__(self, root: str, images: dict[str, Blob]) -> None:
        self.root, self.by_path = root, images
        self.folders = sorted({path.split("/")[0] for path in images if "/" in path})
        self.by_name: dict[str, Blob | None] = {}
        for path, blob in images.items():
            name = storage.name(path)
            self.by_name[name] = None if name in self.by_name else blob

    def find(self, file_name: str) -> Blob:
        blob = self.by_path.get(file_name) or self.by_name.get(storage.name(file_name))
        if blob is None:
            below = [f"{folder}/{file_name}" for folder in self.folders]
            found = [self.by_path[path] for path in below if path in self.by_path]
            blob = found[0] if len(found) == 1 else None
        return blob or Blob(storage.join(self.root, file_name), 0)


def _by_image(annotations: Iterable[Annotation]) -> defaultdict[int, list[Annotation]]:
    found: defaultdict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        found[annotation["image_id"]].append(annotation)
    return found


def _item(
    image: Mapping[str, Any],
    annotations: list[Annotation],
    names: Mapping[int, str],
    places: _Places,
) -> Item:
    things = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    return Item(
        image_id=posixpath.splitext(image["file_name"])[0],
        image=places.find(image["file_name"]),
        boxes=Boxes(
            edges=tuple(_edges(thing) for thing in things),
            labels=tuple(names[thing["category_id"]] for thing in things),
            frame=_frame(image),
        ),
        classes=tuple(sorted({names[annotation["category_id"]] for annotation in annotations})),
    )


def _frame(image: Mapping[str, Any]) -> tuple[float, float] | None:
    size = (float(image.get("width") or 0), float(image.get("height") or 0))
    return size if min(size) > 0 else None


def _edges(annotation: Annotation) -> Edges:
    x, y, width, height = (float(value) for value in annotation["bbox"])
    return x, y, x + width, y + height
