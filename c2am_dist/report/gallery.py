"""The gallery's rows and pictures: which images, how small, and what the page is told of them."""

import base64
import hashlib
import heapq
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg

from c2am_dist import schema
from c2am_dist.data import shards
from c2am_dist.method import images
from c2am_dist.report import page, rows
from c2am_dist.report.publish import Output
from c2am_dist.report.rows import Row

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
        confidence = row.label["confidence"]
        return np.inf if confidence is None else confidence
    if row.label["error"] is not None:
        return -2.0
    iou = row.iou()
    return -1.0 if not row.boxes else np.inf if iou is None else iou


def write(chosen: Sequence[Row], known: dict[str, list[str]], output: Output) -> int:
    """Hands pictures and rows to a report, a label file's at a time; returns how many.

    Args:
        chosen: rows, in order.
        known: shards by file name (`rows.files_by_name`).
        output: the report.

    Raises:
        ValueError: the shards lack a labeled image, or a map cannot be decoded; names the image.
    """
    entries, num_rows = _entries(chosen, known, output.picture), 0
    while batch := list(itertools.islice(entries, _ROWS_A_SCRIPT)):
        output.rows(page.script(batch))
        num_rows += len(batch)
    return num_rows


def _entries(
    chosen: Sequence[Row], known: dict[str, list[str]], keep: Callable[[int, bytes], str]
) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of the interpreter
        for uri, group in itertools.groupby(chosen, key=lambda row: row.uri):
            by_id = {row.image_id: row for row in group}
            maps = _maps(uri, by_id)
            items = _pictures(by_id, known, keep, pool)
            for image_id, row in by_id.items():
                if image_id not in items:
                    raise ValueError(f"the shards lack the labeled image {image_id!r}")
                yield _entry(row, items[image_id], maps[image_id])


def _pictures(
    wanted: dict[str, Row],
    known: dict[str, list[str]],
    keep: Callable[[int, bytes], str],
    pool: ThreadPoolExecutor,
) -> dict[str, Item]:
    def make(found: dict[str, Any]) -> tuple[str, Item]:
        row = wanted[found["image_id"]]
        return row.image_id, _picture(row, found["image"], keep)

    items: dict[str, Item] = {}
    for name in sorted({row.label["shard"] for row in wanted.values()}):
        for uri in known.get(name, []):
            for found in rows.wanted_images(uri, wanted, ("image_id", "image")):
                items |= pool.map(make, found)
    return items


def _picture(row: Row, data: bytes, keep: Callable[[int, bytes], str]) -> Item:
    """Runs in a thread. The picture is encoded anew: no metadata of the image goes along."""
    size = (row.label["height"] or PICTURE_PX, row.label["width"] or PICTURE_PX)
    try:
        pixels = images.decode(data, min_side_px=PICTURE_PX)
        size = images.header(data)
    except images.ImageError as error:
        return Item(None, size, str(error))
    scale = min(1.0, PICTURE_PX / max(pixels.shape[:2]))
    small = tuple(max(1, round(side * scale)) for side in pixels.shape[:2])
    small = np.ascontiguousarray(images.resize(pixels, (small[0], small[1])))
    return Item(keep(row.place, simplejpeg.encode_jpeg(small, quality=_JPEG_QUALITY)), size, None)


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
        "shows": label.get("class_name") and page.shown(label["class_name"]),
    }


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
        "scores": [_finite(box["score"]) for box in label["pseudo_boxes"] or []],
        "truths": row.truths,
        "iou": _rounded(row.iou()),
        "confidence": _finite(label["confidence"]),
        "foreground": _finite(label["foreground_fraction"]),
        "threshold": _finite(label["threshold"]),
        **grids,
    }


def _finite(value: float | None) -> float | None:
    return _rounded(value) if value is not None and np.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
