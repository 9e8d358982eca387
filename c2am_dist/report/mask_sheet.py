"""One picture of a few images with their masks side by side, a row an image.

``python -m c2am_dist.report.mask_sheet --shards URI --masks URI URI --output FILE.png`` draws
image | first masks | background cue | further masks | annotated mask.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import cv2
import numpy as np
import tyro

from c2am_dist import schema, storage
from c2am_dist.data import label_map_files, label_set, mask_sets
from c2am_dist.method import cues, images, label_maps
from c2am_dist.method.confusion import IGNORED
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.report import canvas, gallery, rows
from c2am_dist.report.canvas import Pixels
from c2am_dist.report.mask_gallery import mean_iou, stored_masks

_OPACITY = 0.7
"""Of a class's colour over the image, so that one sees what was hit."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SheetSample:
    """An image with its masks."""

    image_id: str
    pixels: Pixels
    """The image, perhaps at a reduced size."""
    masks: Sequence[np.ndarray | None]
    """Ids of the label map, uint8, h w; None where there is none."""
    cue: np.ndarray | None
    """float32 in [0, 1], 1 = background, at any size."""
    truth: np.ndarray | None
    """Ids of the label map, 255 ignored."""


def mask_sheet(samples: Sequence[SheetSample], titles: Sequence[str], label_map: LabelMap) -> bytes:
    """A PNG: image, the first masks, the cue, further masks, the truth; below, classes' colours.

    The cue's and the truth's column are there where any sample has one. Below a mask stands its
    mean IoU over the classes of the image, where the truth is known.

    Args:
        samples: a row each.
        titles: of the masks' columns.
        label_map: what the ids mean.

    Raises:
        ValueError: there is no sample, or one has not as many masks as there are titles.
    """
    if not samples or any(len(sample.masks) != len(titles) for sample in samples):
        raise ValueError(f"a sheet needs samples of {len(titles)} masks each")
    has_cue = any(sample.cue is not None for sample in samples)
    has_truth = any(sample.truth is not None for sample in samples)
    heads = ["image", titles[0], *(["background cue"] if has_cue else []), *titles[1:]]
    heads += ["annotated"] if has_truth else []
    bands = [canvas.captions(heads)]
    for sample in samples:
        first, *further = _mask_cells(sample, len(label_map))
        size = canvas.fit(sample.pixels.shape[:2])[1]
        cells = [(images.resize(sample.pixels, size), sample.image_id), first]
        cells += [(_grey(sample.cue, size), "")] if has_cue else []
        cells += further
        cells += [(_painted(sample.pixels, sample.truth), "")] if has_truth else []
        panels, notes = zip(*cells, strict=True)
        bands.append(canvas.band(panels, notes))
    legend = _legend(samples, label_map, bands[0].shape[1])
    return cv2.imencode(".png", np.vstack([*bands, *legend])[..., ::-1])[1].tobytes()


def _mask_cells(sample: SheetSample, num_classes: int) -> list[tuple[Pixels | None, str]]:
    cells = []
    for mask in sample.masks:
        iou = mean_iou(mask, sample.truth, num_classes)
        note = "no mask" if mask is None else "" if iou is None else f"mean IoU {100 * iou:.1f}"
        cells.append((_painted(sample.pixels, mask), note))
    return cells


def _painted(pixels: Pixels, mask: np.ndarray | None) -> Pixels | None:
    """The image as a panel, its classes in their colours."""
    if mask is None:
        return None
    size = canvas.fit(pixels.shape[:2])[1]
    small = images.resize(pixels, size)
    ids = np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    colours = cv2.addWeighted(small, 1 - _OPACITY, label_maps.palette()[ids], _OPACITY, 0)
    return np.where((ids == 0)[..., None], small, colours)


def _grey(cue: np.ndarray | None, size: tuple[int, int]) -> Pixels | None:
    if cue is None:
        return None
    grey = np.rint(cues.enlarge(cue, size) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _legend(samples: Sequence[SheetSample], label_map: LabelMap, width: int) -> list[Pixels]:
    """Bands of swatches and names of the classes that occur, as many a line as fit."""
    found = [mask for each in samples for mask in (*each.masks, each.truth) if mask is not None]
    ids = {int(i) for mask in found for i in np.flatnonzero(np.bincount(mask.ravel()))} - {0}
    named = [(i, "ignored" if i == IGNORED else label_map.name_of(i)) for i in sorted(ids)]
    num_columns = (width - canvas.GAP_PX) // (canvas.PANEL_PX[1] + canvas.GAP_PX)
    bands = []
    for start in range(0, len(named), num_columns):
        line = named[start : start + num_columns]
        made = canvas.blank(canvas.LINE_PX, num_columns)
        texts = [f"        {name}" for _, name in line]  # room for the swatch
        made = canvas.write(made, texts, y=0, font_px=13, colour=canvas.TEXT).copy()
        for column, (class_id, _) in enumerate(line):
            x = canvas.left(column)
            made[4:18, x : x + 20] = label_maps.palette()[class_id]
            cv2.rectangle(made, (x, 4), (x + 19, 17), canvas.FAINT)
        bands.append(made)
    return bands


def draw(
    *,
    shards: tuple[str, ...],
    masks: tuple[str, ...],
    labels: tuple[str, ...] = (),
    titles: tuple[str, ...] = (),
    label_map: str = "",
    output: str = "mask_sheet.png",
    num_images: int = 6,
    image_ids: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Draw a few images with their pseudo masks side by side.

    Args:
        shards: The shards that were labeled: one or more URIs.
        masks: Sets of pseudo masks, a column each.
        labels: Label sets with background cues: one or more URIs; no column of cues without.
        titles: Of the masks' columns; the names of their folders if unset.
        label_map: What ids the annotated masks hold: voc, coco or URI of a text file; what the
            first set of pseudo masks says if unset.
        output: URI of the PNG.
        num_images: Images to show, drawn at random from those that have a mask in the first set.
        image_ids: Show these instead, in this order.
        seed: Another one shows other images.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be positive, got {num_images}")
    titles = titles or tuple(storage.name(storage.absolute(uri)) for uri in masks)
    if len(titles) != len(masks):
        raise ValueError(f"titles: {len(titles)} of {len(masks)} sets of masks")
    sets = [label_set.expand([uri]) for uri in masks]
    known = mask_sets.read_label_map([file for files in sets for file in files])
    chosen = image_ids or _drawn(sets[0], num_images, seed)
    found = [_decoded(files, chosen) for files in sets]
    cue_of = _cues(label_set.expand(labels), chosen) if labels else {}
    truths = label_map_files.read(label_map) if label_map else known
    shown = _images(shards, chosen)
    samples = [
        SheetSample(
            image_id=image_id,
            pixels=shown[image_id][0],
            masks=[each.get(image_id) for each in found],
            cue=cue_of.get(image_id),
            truth=_truth(image_id, shown[image_id][1], truths),
        )
        for image_id in chosen
    ]
    storage.write_bytes(output, mask_sheet(samples, titles, known))
    print(f"mask sheet: {output}")


def _drawn(files: Sequence[storage.File], num_images: int, seed: int) -> list[str]:
    found = (row for row in rows.scan(files, {}, schema.PSEUDO_MASKS) if not row.label["error"])
    return [row.image_id for row in gallery.choose(found, num_images, "sample", seed)]


def _decoded(files: Sequence[storage.File], wanted: Collection[str]) -> dict[str, np.ndarray]:
    return {
        image_id: images.decode_mask(data)
        for file in files
        for image_id, data in stored_masks(file.uri, wanted).items()
        if data is not None
    }


def _cues(files: Sequence[storage.File], wanted: Collection[str]) -> dict[str, np.ndarray]:
    columns = ["image_id", "background_cue"]
    return {
        row["image_id"]: images.decode_png8(row["background_cue"])
        for file in files
        for row in rows.wanted_labels(file.uri, wanted, columns, schema.LABELS)
        if row["background_cue"] is not None
    }


def _images(uris: Sequence[str], wanted: Collection[str]) -> dict[str, tuple[Pixels, Any]]:
    """Each image, perhaps at a reduced size, and the bytes of its mask."""
    found = {}
    for file in storage.expand(uris):
        for some in rows.wanted_images(file.uri, wanted, ("image_id", "image", "mask")):
            for row in some:
                pixels = images.decode(row["image"], min_side_px=max(canvas.PANEL_PX))
                found[row["image_id"]] = (pixels, row.get("mask"))
    for image_id in wanted:
        if image_id not in found:
            raise ValueError(f"{', '.join(uris)}: the shards lack the image {image_id!r}")
    return found


def _truth(image_id: str, data: bytes | None, label_map: LabelMap) -> np.ndarray | None:
    try:
        return None if data is None else label_map.from_annotation(images.decode_mask(data))
    except ValueError as error:
        raise ValueError(f"mask of image {image_id!r}: {error}") from error


if __name__ == "__main__":
    tyro.cli(draw)
