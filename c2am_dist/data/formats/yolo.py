"""YOLO's text files of relative boxes in ``labels`` beside ``images``."""

import functools
from collections.abc import Mapping
from typing import Any

import yaml

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import (
    Blob,
    Boxes,
    BoxFile,
    Edges,
    Item,
    by_stem,
    files_below,
    read_lines,
)

_NAME_FILES = ("classes.txt", "data.yaml", "dataset.yaml", "classes.yaml")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, by which a few lines stand for any amount of memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of ``images/…`` with boxes of ``labels/…``; ``train/images/…`` works as well.

    ``config.annotations`` names the folder of text files where it is another, or the file of
    class names (found by itself as classes.txt, data.yaml, dataset.yaml or classes.yaml in
    the root or beside the text files; without one, classes are called by their numbers).
    image_id is the path without ``images`` and extension. Folders above or below ``images``
    name the split. As usual with YOLO, an image without text file holds no object. A PNG of
    class ids in ``masks/…`` becomes the mask.
    """
    items = []
    for uri in config.input:
        root, files = _files(uri)
        folder, name_file = _annotations(config.annotations)
        images = by_stem(_companions(files, "images"))
        texts = by_stem(files_below(folder) if folder else _companions(files, "labels"), [".txt"])
        masks = by_stem(_companions(files, "masks"), [".png"])
        if not images:
            raise FileNotFoundError(f"{uri}: no image in a folder images")
        if not any(image_id in texts for image_id in images):
            where = folder or f"{root}, in a folder labels"
            raise FileNotFoundError(f"{where}: no text file for any image (say --annotations)")
        parse = functools.partial(parse_txt, names=_names(name_file, root, folder))
        for image_id, blob in images.items():
            text = texts.get(image_id)
            items.append(
                Item(
                    image_id=image_id,
                    image=blob,
                    boxes=BoxFile(text, parse) if text else Boxes((), ()),
                    mask=masks.get(image_id),
                    split=image_id.split("/")[0] if "/" in image_id else None,
                )
            )
    return items


def parse_txt(data: bytes, *, names: Mapping[int, str]) -> Boxes:
    """The boxes of lines ``class centre_x centre_y width height``, in shares of the image.

    A polygon, ``class x y x y x y …``, counts as the box around it.

    Raises:
        ValueError: a line is neither, or its class has no name.
    """
    edges, labels = [], []
    for line in data.decode("utf-8-sig").splitlines():
        fields = [float(field) for field in line.split()]
        if not fields:
            continue
        if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            raise ValueError(f"not class x y width height: {line!r}")
        index = int(fields[0])
        if names and index not in names:
            raise ValueError(f"class {index} has no name among {len(names)}")
        labels.append(names.get(index, str(index)))
        edges.append(_edges(fields[1:]))
    return Boxes(tuple(edges), tuple(labels), (1.0, 1.0))


def _edges(values: list[float]) -> Edges:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _files(uri: str) -> tuple[str, dict[str, Blob]]:
    """The root of the set and its files; the input may also be its folder ``images``."""
    uri = storage.absolute(uri).rstrip("/")
    if storage.name(uri) != "images":
        return uri, files_below(uri)
    root = uri.rpartition("/")[0]
    return root, {
        f"{folder}/{path}": blob
        for folder in ("images", "labels", "masks")
        if storage.exists(storage.join(root, folder))
        for path, blob in files_below(storage.join(root, folder)).items()
    }


def _companions(files: Mapping[str, Blob], folder: str) -> dict[str, Blob]:
    """The files below folders of this name, by their path without that part."""
    found = {}
    for path, blob in files.items():
        parts = path.split("/")
        if folder in parts[:-1]:
            parts.remove(folder)
            found["/".join(parts)] = blob
    return found


def _annotations(uri: str | None) -> tuple[str | None, str | None]:
    """The folder of text files and the file of class names, where given."""
    if uri is None:
        return None, None
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri}: no such file or folder (annotations)")
    is_folder = storage.root(uri) == storage.absolute(uri)
    return (uri, None) if is_folder else (None, uri)


def _names(name_file: str | None, root: str, folder: str | None) -> dict[int, str]:
    """Class names by number.

    Raises:
        ValueError: the file holds none; the message names it.
    """
    if name_file is None:
        folders = [root] if folder is None else [folder, root]
        candidates = [storage.join(f, name) for f in folders for name in _NAME_FILES]
        name_file = next((uri for uri in candidates if storage.exists(uri)), None)
    if name_file is None:
        return {}
    if name_file.endswith((".txt", ".names")):
        return dict(enumerate(read_lines(name_file)))
    try:
        names = yaml.load(storage.read_bytes(name_file), _PlainLoader)["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(index): str(name) for index, name in pairs}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name_file}: no list of class names under 'names'") from error
