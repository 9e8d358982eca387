"""Generated images with exact boxes, masks and classes: the quickstart's data.

One textured object an image, of any size, place and colour, sometimes coloured like its
surroundings, on a textured background with clutter. A class is a kind of thing, as a species
is: an outline (ellipse, polygon, star, ring, letter, blob), a regular pattern (stripes,
checks, dots, ripples) and a hue that varies a little. Backgrounds are irregular (clouds,
folds, gradients, tiles) and mostly duller, though clutter may have any colour.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import cv2
import numpy as np
import simplejpeg

from c2am_dist.data import drawing

Array = np.ndarray
Rng = np.random.Generator
Box = tuple[int, int, int, int]

# Twelve that are all different.
_KINDS = tuple((drawing.OUTLINES[k % 6], drawing.PATTERNS[k % 4]) for k in range(12))
CLASSES = tuple(f"{outline.__name__}-{pattern.__name__}" for outline, pattern in _KINDS)


class Sample(NamedTuple):
    """A generated image and what is known of it."""

    image: Array
    """uint8, h w 3, RGB."""
    mask: Array
    """uint8, h w: 1 on the object, 0 elsewhere."""
    label: int
    """Index into CLASSES."""


def draw_sample(seed: int, index: int, *, size_px: int = 128) -> Sample:
    """The image number ``index`` of a set: the same for the same arguments, everywhere.

    Its sides lie within an eighth of ``size_px``.
    """
    rng = np.random.default_rng([seed, index])
    height, width = rng.integers(size_px * 7 // 8, size_px * 9 // 8 + 1, size=2).tolist()
    label = int(rng.integers(len(CLASSES)))
    outline, pattern = _KINDS[label]
    hue = (label + rng.uniform(-0.4, 0.4)) / len(CLASSES)
    image = drawing.background(rng, height, width)
    opacity = drawing.place(rng, outline(rng), height, width, sides=(0.22, 0.8))
    behind = image[opacity > 0].mean(axis=0)
    ink = drawing.colour(rng, hue, 0.55)
    drawing.lay(rng, image, _surface(rng, pattern, ink, behind, (height, width)), opacity)
    return Sample(drawing.photograph(rng, image), (opacity > 0.5).astype(np.uint8), label)


def _surface(
    rng: Rng, pattern: drawing.Pattern, ink: Array, behind: Array, size: tuple[int, int]
) -> Array:
    """The object's pattern in its ink, on a ground that is often the colour behind it."""
    share = drawing.repeat(rng, pattern, min(size), *size)[..., None]
    ground = behind if rng.random() < 0.3 else drawing.colour(rng, rng.uniform(), 0, 0.5)
    while np.abs(ground - ink).sum() < 0.5:  # a pattern nobody sees is no pattern
        ground = drawing.colour(rng, rng.uniform(), 0, 0.5)
    return ground + (ink - ground) * share


def box_of(mask: Array) -> Box:
    """The half-open box x0 y0 x1 y1 of a mask's object."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_voc(
    root: str | Path, *, num_train: int, num_val: int, seed: int = 0, size_px: int = 128
) -> None:
    """Writes a set in VOC's layout to a local folder, which `jobs/prepare.py` then reads.

    JPEGImages, Annotations (one box an image, named by class), SegmentationClass (0 and 1)
    and ImageSets/Main/{train,val}.txt. Byte-identical for the same arguments.

    Raises:
        FileExistsError: the folder holds a set already, perhaps another one.
    """
    root = Path(root)
    lay_out_voc(root, num_train, num_val, lists=("Main",))
    draw_all(lambda index: _write_one(root, seed, index, size_px), num_train + num_val)


def lay_out_voc(root: Path, num_train: int, num_val: int, *, lists: Sequence[str]) -> None:
    """Makes VOC's folders, with train.txt and val.txt in each of ``lists`` of ImageSets.

    Raises:
        FileExistsError: one is there already.
    """
    for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    splits = {"train": range(num_train), "val": range(num_train, num_train + num_val)}
    for folder in lists:
        (root / "ImageSets" / folder).mkdir(parents=True)
        for split, indices in splits.items():
            names = "".join(f"{name_of(index)}\n" for index in indices)
            (root / "ImageSets" / folder / f"{split}.txt").write_text(names)


def draw_all(draw: Callable[[int], None], num_images: int) -> None:
    """Calls ``draw`` with each image's number.

    In threads, since OpenCV and numpy let go of the interpreter lock while they draw.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(draw, range(num_images)):
            pass  # wait, and raise what a thread raised


def name_of(index: int) -> str:
    return f"{index:06d}"


def _write_one(root: Path, seed: int, index: int, size_px: int) -> None:
    image, mask, label = draw_sample(seed, index, size_px=size_px)
    png = cv2.imencode(".png", mask)[1].tobytes()
    write_image(root, index, image, png, [(CLASSES[label], box_of(mask))])


def write_image(
    root: Path, index: int, image: Array, mask_png: bytes, objects: Sequence[tuple[str, Box]]
) -> None:
    """Writes an image of VOC's layout with its mask and its XML of classes and boxes."""
    name, (height, width) = name_of(index), image.shape[:2]
    jpeg = simplejpeg.encode_jpeg(image, quality=80 + index % 16)
    (root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
    (root / "SegmentationClass" / f"{name}.png").write_bytes(mask_png)
    elements = "".join(
        f"<object><name>{escape(label)}</name>"  # VOC counts from 1, corners included
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, (x0, y0, x1, y1) in objects
    )
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{elements}</annotation>\n"
    )
