"""CUB-200-2011: tables of numbers, and segmentations if they are there."""

import posixpath

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import Blob, Boxes, Edges, Item, files_below, read_table

_SPLITS = {"0": "test", "1": "train"}


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of CUB_200_2011, or of the folder that holds it and ``segmentations``.

    image_id is the path of images.txt without extension, the label the class's name with its
    number. Boxes are x, y, width, height in images.txt's order; x and y are counted from 0,
    as every public reader does (the set's notes do not say). An image without a row in
    bounding_boxes.txt has boxes null.

    Raises:
        FileNotFoundError: there is no images.txt.
        ValueError: a row is malformed, comes twice, or names a class that classes.txt does not
            have; the message names the table.
    """
    return [item for uri in config.input for item in _list_root(uri)]


def _list_root(uri: str) -> list[Item]:
    files = files_below(uri)
    tables = sorted((p for p in files if storage.name(p) == "images.txt"), key=len)
    if not tables:
        raise FileNotFoundError(f"{uri}: no images.txt, so not CUB-200-2011")
    base = tables[0].removesuffix("images.txt")
    paths = _table(files, base, "images.txt")
    class_of = _table(files, base, "image_class_labels.txt")
    class_names = _table(files, base, "classes.txt")
    if unknown := sorted(set(class_of.values()) - set(class_names)):
        raise ValueError(
            f"{uri}: class {unknown[0]} of image_class_labels.txt is not in classes.txt"
        )
    splits = _table(files, base, "train_test_split.txt")
    edges = {key: _edges(row) for key, row in _table(files, base, "bounding_boxes.txt").items()}
    items = []
    for number, path in paths.items():
        image_id = posixpath.splitext(path)[0]
        full_path = f"{base}images/{path}"
        label = class_names.get(class_of.get(number, ""))
        masks = (f"{base}segmentations/{image_id}.png", f"segmentations/{image_id}.png")
        items.append(
            Item(
                image_id=image_id,
                image=files.get(full_path, Blob(storage.join(uri, full_path), 0)),
                label=label,
                boxes=Boxes((edges[number],), (label,)) if number in edges else None,
                mask=next((files[mask] for mask in masks if mask in files), None),
                is_agreement_mask=True,
                split=_SPLITS.get(splits.get(number, "")),
            )
        )
    return items


def _table(files: dict[str, Blob], base: str, name: str) -> dict[str, str]:
    """A table's rows by their number; {} if it is not there."""
    if base + name not in files:
        return {}
    rows: dict[str, str] = {}
    for number, content in read_table(files[base + name].uri, 2):
        if number in rows:
            raise ValueError(f"{files[base + name].uri}: number {number} comes twice")
        rows[number] = content
    return rows


def _edges(row: str) -> Edges:
    try:
        x, y, width, height = (float(field) for field in row.split())
    except ValueError as error:
        raise ValueError(f"bounding_boxes.txt: not x y width height: {row!r}") from error
    return x, y, x + width, y + height
