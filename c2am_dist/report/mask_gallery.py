"""The gallery's rows and pictures of pseudo masks, beside the masks that the shards hold."""

import functools
import io
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from c2am_dist import schema
from c2am_dist.method import images, label_maps
from c2am_dist.method.confusion import IGNORED, ConfusionMatrix
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.report import gallery, page, rows
from c2am_dist.report.gallery import Item
from c2am_dist.report.page import Legend
from c2am_dist.report.publish import Output
from c2am_dist.report.rows import Row


class Shown(NamedTuple):
    """What the page says above the gallery."""

    has_truth: bool
    """Whether the mask of any image is known."""
    legend: Legend
    """The classes that occur."""


class _Masks(NamedTuple):
    """What was made of one row's masks."""

    item: Item
    pseudo: str | None
    """The picture's URL."""
    truth: str | None
    shares: dict[int, float]
    """The pseudo mask's ids, without the background's, and their shares of the image."""
    ids: frozenset[int]
    """All that occur in either mask."""
    iou: float | None
    """Mean over the classes that occur in either, the background among them."""


def write(
    chosen: Sequence[Row], known: dict[str, list[str]], label_map: LabelMap, output: Output
) -> Shown:
    """Hands pictures and rows to a report, a file's at a time.

    Args:
        chosen: rows of pseudo masks, in order.
        known: shards by file name (`rows.files_by_name`).
        label_map: what the ids mean.
        output: the report.

    Raises:
        ValueError: the shards lack an image, or a mask cannot be decoded or holds an id that is
            not of the label map; names the image.
    """
    ids, has_truth = set[int](), False
    for entry in gallery.hand_over(_entries(chosen, known, label_map, output, ids), output):
        has_truth |= entry["truth"] is not None
    named = [*enumerate(label_map.names), (IGNORED, "ignored")]
    legend = [(name, gallery.palette_colour(i)) for i, name in named if i in ids - {0}]
    return Shown(has_truth, legend)


def _entries(
    chosen: Sequence[Row],
    known: dict[str, list[str]],
    label_map: LabelMap,
    output: Output,
    ids: set[int],
) -> Iterator[dict[str, Any]]:
    """The entries; adds to ``ids`` what occurs."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders let go of the interpreter
        for uri, group in itertools.groupby(chosen, key=lambda row: row.uri):
            by_id = {row.image_id: row for row in group}
            make = functools.partial(_made, by_id, stored_masks(uri, by_id), label_map, output)
            found = gallery.each_image(by_id, known, ("image_id", "image", "mask"), make, pool)
            for image_id, row in by_id.items():
                ids |= found[image_id].ids
                yield _entry(row, found[image_id], label_map)


def stored_masks(uri: str, wanted: Collection[str]) -> dict[str, bytes | None]:
    """The stored mask of each wanted image of a file of pseudo masks."""
    found = rows.wanted_labels(uri, wanted, ["image_id", "pseudo_mask"], schema.PSEUDO_MASKS)
    return {row["image_id"]: row["pseudo_mask"] for row in found}


def _made(
    wanted: Mapping[str, Row],
    stored: Mapping[str, bytes | None],
    label_map: LabelMap,
    output: Output,
    found: dict[str, Any],
) -> _Masks:
    """Runs in a thread, on a shard's row."""
    row = wanted[found["image_id"]]
    item = gallery.picture(row, found["image"], output.picture)
    data, known = stored[row.image_id], found.get("mask")
    try:
        pseudo = None if data is None else images.decode_mask(data)
        truth = None if known is None else label_map.from_annotation(images.decode_mask(known))
        iou = mean_iou(pseudo, truth, len(label_map))
    except ValueError as error:
        raise ValueError(f"masks of image {row.image_id!r}: {error}") from error
    found_shares, known_shares = _shares(pseudo), _shares(truth)
    keep = functools.partial(_keep, output, row.place)
    return _Masks(
        item,
        keep(pseudo, "mask"),
        keep(truth, "truth"),
        {class_id: share for class_id, share in found_shares.items() if class_id},
        frozenset(found_shares) | frozenset(known_shares),
        iou,
    )


def _shares(mask: np.ndarray | None) -> dict[int, float]:
    """The ids of a mask and their shares of the image."""
    if mask is None:
        return {}
    counts = np.bincount(mask.ravel()) / mask.size
    return {class_id: float(counts[class_id]) for class_id in map(int, np.flatnonzero(counts))}


def _keep(output: Output, place: int, mask: np.ndarray | None, kind: str) -> str | None:
    return None if mask is None else output.picture(place, small_png(mask), kind)


def mean_iou(pseudo: np.ndarray | None, truth: np.ndarray | None, num_classes: int) -> float | None:
    """Of one image, over the classes that occur in either mask, the background among them.

    None where there are not both, or of two sizes, or the known one is all ignored.

    Raises:
        ValueError: the pseudo mask holds an id that is none.
    """
    if pseudo is not None and pseudo.max() >= num_classes:
        raise ValueError(f"{pseudo.max()} is none of {num_classes} ids")
    if pseudo is None or truth is None or pseudo.shape != truth.shape:
        return None
    if (truth == IGNORED).all():
        return None
    counts = ConfusionMatrix.empty(num_classes)
    counts.add(pseudo, truth)
    return counts.mean_iou(is_present_only=True)


def small_png(mask: np.ndarray) -> bytes:
    """A mask at a picture's size as PNG in VOC's colours, the background transparent."""
    height, width = gallery.shrunk((mask.shape[0], mask.shape[1]))
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    picture = Image.fromarray(small)
    picture.putpalette(label_maps.palette().tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", transparency=0)
    return data.getvalue()


def _entry(row: Row, made: _Masks, label_map: LabelMap) -> dict[str, Any]:
    """What ``page/gallery.js`` is told of an image; no box, map or confidence."""
    label, error, item = row.label, row.label["error"], made.item
    shown = {label_map.names[i]: share for i, share in made.shares.items()}
    competed = ", ".join(label["classes"] or []) or None
    return {
        "place": row.place,
        "image_id": page.shown(row.image_id),
        "shard": page.shown(label["shard"]),
        "label": None if row.name is None else page.shown(row.name),
        "error": page.shown(error) if error is not None else item.note and page.shown(item.note),
        "height": item.size[0],
        "width": item.size[1],
        "picture": item.picture,
        "iou": None if made.iou is None else round(made.iou, 4),
        "foreground": None if made.pseudo is None else round(sum(made.shares.values()), 4),
        "threshold": gallery.finite(label["threshold"]),
        "mask": made.pseudo,
        "truth": made.truth,
        "found": [[page.shown(name), round(share, 4)] for name, share in shown.items()],
        "competed": competed and page.shown(competed),
        "background": label["background"] and page.shown(label["background"]),
        "refinement": label["refinement"] and page.shown(label["refinement"]),
        **dict.fromkeys(("truths", "confidence", "map", "cue", "shows")),
        **{"boxes": [], "scores": [], "factors": [], "classes": [], "peak": 0.0},
    }
