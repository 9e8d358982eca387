"""The gallery's rows and pictures: which images, how small, and what the page is told of them."""

import base64
import functools
import hashlib
import heapq
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
import simplejpeg

from c2am_dist import schema
from c2am_dist.data import shards
from c2am_dist.method import images, label_maps
from c2am_dist.report import page, rows
from c2am_dist.report.page import Legend
from c2am_dist.report.publish import Output
from c2am_dist.report.rows import Row

Made = TypeVar("Made")
Select = Literal["sample", "worst", "uncertain"]
PICTURE_PX = 256
"""Longest side of a picture; smaller images keep their size."""
_GRID_CELLS = 32
"""Most cells of a map along each side: a ResNet's at 512 px."""
_ROWS_A_SCRIPT = 500
_JPEG_QUALITY = 80


class Item(NamedTuple):
    """What was made of one row for the page."""

    picture: str | None
    """Its URL; None where the image cannot be decoded."""
    size: tuple[int, int]
    """The image's full height and width."""
    note: str | None
    """Why there is no picture."""


def choose(found: Iterable[Row], num_images: int, select: Select, seed: int) -> list[Row]:
    """So many rows, in their order: the first by ``select``, or drawn by hash.

    Equals are drawn by hash of seed and image_id. Errors are the worst, then images without a
    box, then the lowest IoU; the least confident are the most uncertain. Holds no more rows
    than it returns.
    """

    def key(row: Row) -> tuple[float, str, int]:
        drawn = hashlib.blake2b(f"{seed}/{row.image_id}".encode()).hexdigest()
        return _rank(row, select), drawn, row.place

    chosen = heapq.nsmallest(num_images, found, key=key)
    return sorted(chosen, key=lambda row: row.place)


def _rank(row: Row, select: Select) -> float:
    if select == "sample":
        return 0.0
    if select == "uncertain":
        confidence = row.label.get("confidence")
        return np.inf if confidence is None else confidence
    if row.label["error"] is not None:
        return -2.0
    iou = row.iou()
    return -1.0 if not row.boxes else np.inf if iou is None else iou


def write(chosen: Sequence[Row], known: dict[str, list[str]], output: Output) -> Legend:
    """Hands pictures and rows to a report, a label file's at a time.

    Returns the classes whose maps are shown, and their colours.

    Args:
        chosen: rows, in order.
        known: shards by file name (`rows.files_by_name`).
        output: the report.

    Raises:
        ValueError: the shards lack a labeled image, or a map cannot be decoded; names the image.
    """
    shown = dict[str, str]()
    for entry in hand_over(_entries(chosen, known, output.picture), output):
        shown |= {each["name"]: each["colour"] for each in entry["classes"]}
    return sorted(shown.items())


def hand_over(entries: Iterator[dict[str, Any]], output: Output) -> Iterator[dict[str, Any]]:
    """The entries, each after a script of rows of it and its neighbours has been kept."""
    while batch := list(itertools.islice(entries, _ROWS_A_SCRIPT)):
        output.rows(page.script(batch))
        yield from batch


def _entries(
    chosen: Sequence[Row], known: dict[str, list[str]], keep: Callable[[int, bytes], str]
) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of the interpreter
        for uri, group in itertools.groupby(chosen, key=lambda row: row.uri):
            by_id = {row.image_id: row for row in group}
            maps = _maps(uri, by_id)
            make = functools.partial(_item, by_id, keep)
            items = each_image(by_id, known, ("image_id", "image"), make, pool)
            for image_id, row in by_id.items():
                yield _entry(row, items[image_id], maps[image_id])


def each_image(
    wanted: Mapping[str, Row],
    known: dict[str, list[str]],
    columns: Sequence[str],
    make: Callable[[dict[str, Any]], Made],
    pool: ThreadPoolExecutor,
) -> dict[str, Made]:
    """What is made of the shards' row of each image, in threads; by image_id.

    Args:
        wanted: label rows by image_id.
        known: shards by file name (`rows.files_by_name`).
        columns: what to read, where a shard has it.
        make: takes a shard's row.
        pool: of the threads.

    Raises:
        ValueError: the shards lack a labeled image; names it.
    """
    made: dict[str, Made] = {}
    for name in sorted({row.label["shard"] for row in wanted.values()}):
        for uri in known.get(name, []):
            for found in rows.wanted_images(uri, wanted, columns):
                ids = [each["image_id"] for each in found]
                made |= zip(ids, pool.map(make, found), strict=True)
    for image_id in wanted:
        if image_id not in made:
            raise ValueError(f"the shards lack the labeled image {image_id!r}")
    return made


def _item(wanted: Mapping[str, Row], keep: Callable[[int, bytes], str], found: Any) -> Item:
    return picture(wanted[found["image_id"]], found["image"], keep)


def picture(row: Row, data: bytes, keep: Callable[[int, bytes], str]) -> Item:
    """An image as a picture that is kept; runs in a thread.

    The picture is encoded anew: no metadata of the image goes along.
    """
    size = (row.label["height"] or PICTURE_PX, row.label["width"] or PICTURE_PX)
    try:
        pixels = images.decode(data, min_side_px=PICTURE_PX)
        size = images.header(data)
    except images.ImageError as error:
        return Item(None, size, str(error))
    small = np.ascontiguousarray(images.resize(pixels, shrunk(pixels.shape[:2])))
    return Item(keep(row.place, simplejpeg.encode_jpeg(small, quality=_JPEG_QUALITY)), size, None)


def shrunk(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture of an image of a size."""
    scale = min(1.0, PICTURE_PX / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


_FACTORS = {
    "norm_map": "norm of the features, stretched",
    "similarity_map": "similarity to the class (half is none)",
}
"""Columns of a decomposition, and what a report calls them."""
Grid = dict[str, Any]
"""width, height and ``data``: a byte a cell, row by row, in base64."""


def _maps(uri: str, wanted: dict[str, Row]) -> dict[str, dict[str, Any]]:
    """Map, its maximum, the cue and what else is stored of each wanted row of a label file."""
    there = shards.read_schema(uri).names
    wanted_columns = ("image_id", "activation_map", "background_cue", *schema.LATER_LABEL_COLUMNS)
    columns = [name for name in wanted_columns if name in there]
    found: dict[str, dict[str, Any]] = {}
    for group in rows.groups(uri):
        ids = set(shards.read(group, ["image_id"], schema.LABELS)["image_id"].to_pylist())
        if ids.isdisjoint(wanted):
            continue
        for label in shards.read(group, columns, schema.LABELS).to_pylist():
            if label["image_id"] in wanted:
                found[label["image_id"]] = _grids(label)
    return found


def _grids(label: dict[str, Any]) -> dict[str, Any]:
    stored, cue = label.get("activation_map"), label.get("background_cue")
    factors = {text: data for name, text in _FACTORS.items() if (data := label.get(name))}
    try:
        parts = [[text, _grid(images.decode_png16(data))] for text, data in factors.items()]
        classes = [_class_map(each) for each in label.get("class_maps") or []]
        activation = None if stored is None else images.decode_png16(stored)
        background = None if cue is None else images.decode_png8(cue)
    except images.ImageError as error:
        raise ValueError(f"label of image {label['image_id']!r}: {error}") from error
    peak = 0.0 if activation is None else float(activation.max())
    return {
        "map": None if activation is None else _grid(activation / (peak or 1.0)),
        "peak": peak,
        "cue": None if background is None else _grid(background),
        "factors": parts,
        "classes": classes,
        "shows": label.get("class_name") and page.shown(label["class_name"]),
    }


def _class_map(stored: dict[str, Any]) -> dict[str, Any]:
    """A class's map: name, colour, and the map divided by its maximum."""
    values = images.decode_png16(stored["map"])
    name = stored["class_name"]
    return {
        "name": page.shown(name),
        "colour": class_colour(name),
        "grid": _grid(values / (float(values.max()) or 1.0)),
    }


def class_colour(name: str) -> str:
    """``#rrggbb`` of a class: VOC's own where it is one of its classes, else drawn by its name."""
    drawn = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]
    is_known = name in label_maps.VOC.names
    return palette_colour(label_maps.VOC.id_of(name) if is_known else 1 + drawn % 254)


def palette_colour(class_id: int) -> str:
    """``#rrggbb`` of an id."""
    return "#" + label_maps.palette()[class_id].tobytes().hex()


def _grid(values: np.ndarray) -> Grid:
    height, width = (min(side, _GRID_CELLS) for side in values.shape)
    small = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    data = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8).tobytes()
    return {"width": width, "height": height, "data": base64.b64encode(data).decode()}


def _entry(row: Row, item: Item, grids: dict[str, Any]) -> dict[str, Any]:
    """What ``page/gallery.js`` is told of an image."""
    label, error = row.label, row.label["error"]
    return {
        "place": row.place,
        "image_id": page.shown(row.image_id),
        "shard": page.shown(label["shard"]),
        "label": None if row.name is None else page.shown(row.name),
        "error": page.shown(error) if error is not None else item.note and page.shown(item.note),
        "height": item.size[0],
        "width": item.size[1],
        "picture": item.picture,
        "boxes": row.boxes,
        "scores": [finite(box["score"]) for box in label["pseudo_boxes"] or []],
        "truths": row.truths,
        "iou": _rounded(row.iou()),
        "confidence": finite(label["confidence"]),
        "foreground": finite(label["foreground_fraction"]),
        "threshold": finite(label["threshold"]),
        "found": None,
        **grids,
    }


def finite(value: float | None) -> float | None:
    return _rounded(value) if value is not None and np.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
