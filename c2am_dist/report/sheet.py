"""The contact sheet: a picture of a few rows of labels."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq

from c2am_dist import schema, storage
from c2am_dist.data import label_set, mask_sets, shards
from c2am_dist.method import boxes, cues, images
from c2am_dist.report import canvas, rows
from c2am_dist.report.canvas import Pixels

Box = tuple[int, int, int, int]

CAPTIONS = ("image", "activation map", "pseudo box (white: truth)", "background cue")
_PSEUDO, _TRUTH = (255, 150, 0), (255, 255, 255)


class _Label(NamedTuple):
    image_id: str
    shard: str
    activation: np.ndarray
    """float32 in [0, 1], at any size."""
    box: Box | None
    """The largest pseudo box; None where there is none."""
    cue: np.ndarray
    """float32 in [0, 1], 1 = background, at any size."""


class _Picture(NamedTuple):
    pixels: Pixels
    """The image, perhaps at a reduced size."""
    size: tuple[int, int]
    """Its full height and width, which boxes refer to."""
    truths: list[Box] | None
    """Ground-truth boxes; None where unknown."""


def contact_sheet(
    labels: Sequence[str],
    images: Sequence[str],
    output: str,
    *,
    num_rows: int = 8,
    seed: int = 0,
    allow_incomplete: bool = False,
) -> None:
    """Writes a PNG that shows a few labeled images with what was found in them.

    A row an image: the image, its activation map laid over it, the largest pseudo box (with
    the ground truth where the shards know it) and the background cue (1 - map where none is
    stored; white is background). Rows are drawn by hash of seed and image_id, hence the same
    however the labels are split into files; those with an error are left out.

    Args:
        labels: URIs of label files (schema.LABELS) with activation maps.
        images: URIs of the shards that were labeled (schema.SHARD).
        output: URI of the PNG.
        num_rows: how many images to show; fewer where there are not as many.
        seed: another one shows other images.
        allow_incomplete: show a folder whose labeling has not finished.

    Raises:
        ValueError: no row has an activation map, or the shards lack a labeled image.
        FileNotFoundError: a URI names nothing.
    """
    if num_rows < 1:
        raise ValueError(f"num_rows must be positive, got {num_rows}")
    files = label_set.expand(labels, allow_incomplete=allow_incomplete)
    if mask_sets.holds_masks(files):
        raise ValueError(
            f"{files[0].uri}: pseudo masks; c2am_dist.report.mask_sheet draws a sheet of these"
        )
    chosen = _choose(files, num_rows, seed)
    if not chosen:
        raise ValueError(f"{', '.join(labels)}: no activation map is stored in the labels")
    pictures = _find_pictures(chosen, images)
    bands = [canvas.captions(CAPTIONS)] + [
        _band(label, pictures[label.image_id]) for label in chosen
    ]
    png = cv2.imencode(".png", np.vstack(bands)[..., ::-1])[1].tobytes()
    storage.write_bytes(output, png)


def _choose(files: Sequence[storage.File], num_rows: int, seed: int) -> list[_Label]:
    def candidates() -> Iterable[tuple[str, str, str]]:
        for file in files:
            for row in _read(file.uri, ["image_id", "error"]):
                if row["error"] is None:
                    key = f"{seed}/{row['image_id']}".encode()
                    yield hashlib.blake2b(key).hexdigest(), row["image_id"], file.uri

    drawn = heapq.nsmallest(num_rows, candidates())
    columns = ["image_id", "shard", "activation_map", "pseudo_boxes", "background_cue"]
    found = {}
    for uri in sorted({uri for _, _, uri in drawn}):
        ids = [image_id for _, image_id, from_uri in drawn if from_uri == uri]
        for row in _read(uri, columns, filters=[("image_id", "in", ids)]):
            found[row["image_id"]] = row
    chosen = [found[image_id] for _, image_id, _ in drawn]
    return [_label(row) for row in chosen if row["activation_map"] is not None]


@storage.retrying
def _read(uri: str, columns: list[str], filters: list[Any] | None = None) -> list[dict[str, Any]]:
    shards.check_columns(uri, shards.read_schema(uri), columns, schema.LABELS)
    with storage.open_input(uri) as source:
        table = pq.read_table(source, columns=columns, filters=filters)
    return shards.conform(uri, table, columns, schema.LABELS).to_pylist()


def _label(row: dict[str, Any]) -> _Label:
    stored_cue, found = row["background_cue"], row["pseudo_boxes"]
    try:
        activation = images.decode_png16(row["activation_map"])
        cue = images.decode_png8(stored_cue) if stored_cue else cues.background_cue(activation)
    except images.ImageError as error:
        raise ValueError(f"label of image {row['image_id']!r}: {error}") from error
    box = (found[0]["x0"], found[0]["y0"], found[0]["x1"], found[0]["y1"]) if found else None
    return _Label(row["image_id"], row["shard"], activation, box, cue)


def _find_pictures(chosen: Sequence[_Label], uris: Sequence[str]) -> dict[str, _Picture]:
    """The images of labels, by image_id; only the shards they came from are read."""
    wanted, origins = {label.image_id for label in chosen}, {label.shard for label in chosen}
    pictures: dict[str, _Picture] = {}
    for file in storage.expand(uris):
        if storage.name(file.uri) in origins:
            for found in rows.wanted_images(file.uri, wanted, ("image_id", "image", "boxes")):
                pictures |= {row["image_id"]: _picture(row) for row in found}
    for image_id in wanted - pictures.keys():
        raise ValueError(f"{', '.join(uris)}: the shards lack the labeled image {image_id!r}")
    return pictures


def _picture(row: dict[str, Any]) -> _Picture:
    truths = row.get("boxes")
    try:
        pixels = images.decode(row["image"], min_side_px=max(canvas.PANEL_PX))
    except images.ImageError as error:
        raise ValueError(f"image {row['image_id']!r}: {error}") from error
    return _Picture(
        pixels,
        images.header(row["image"]),
        None if truths is None else [(x0, y0, x1, y1) for x0, y0, x1, y1 in truths],
    )


def _band(label: _Label, picture: _Picture) -> Pixels:
    """One row of the sheet: four panels, and a line of text below."""
    scale, size = canvas.fit(picture.size)
    small = images.resize(picture.pixels, size)
    heat = _heat(cues.enlarge(label.activation, size))
    overlay = cv2.addWeighted(small, 0.4, heat, 0.6, 0)
    grey = (cues.enlarge(label.cue, size) * 255).astype(np.uint8)
    cue = np.repeat(grey[..., None], 3, axis=2)
    panels = [small, overlay, _with_boxes(small, label.box, picture.truths, scale), cue]
    notes = [label.image_id, "", _verdict(label.box, picture.truths), ""]
    return canvas.band(panels, notes)


def _heat(activation: np.ndarray) -> Pixels:
    peak = max(float(activation.max()), 1e-6)
    return cv2.applyColorMap((activation / peak * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[
        ..., ::-1
    ]


def _with_boxes(pixels: Pixels, box: Box | None, truths: list[Box] | None, scale: float) -> Pixels:
    drawn_on = pixels.copy()
    drawn = [(truth, _TRUTH) for truth in truths or []] + ([(box, _PSEUDO)] if box else [])
    for thickness, is_outline in ((4, True), (2, False)):  # a dark rim shows on any image
        for corners, colour in drawn:
            # Whatever a label file says, OpenCV gets numbers that it can draw.
            x0, y0, x1, y1 = (round(min(max(value * scale, -9), 999)) for value in corners)
            colour = (0, 0, 0) if is_outline else colour
            cv2.rectangle(drawn_on, (x0, y0), (x1 - 1, y1 - 1), colour, thickness)
    return drawn_on


def _verdict(box: Box | None, truths: list[Box] | None) -> str:
    if box is None:
        return "no box"
    if not truths:
        return ""
    return f"IoU {boxes.iou(np.array([box]), np.array(truths)).max():.2f}"
