"""Generated images with exact boxes, masks and classes: the quickstart's data.

One textured object an image, of any size, place and colour, sometimes coloured like its
surroundings, on a textured background with clutter. A class is a kind of thing, as a species
is: an outline (ellipse, polygon, star, ring, letter, blob), a regular pattern (stripes,
checks, dots, ripples) and a hue that varies a little. Backgrounds are irregular (clouds,
folds, gradients, tiles) and mostly duller, though clutter may have any colour.
"""

import colorsys
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import cv2
import numpy as np
import simplejpeg

Array = np.ndarray
Rng = np.random.Generator


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
    image = _background(rng, height, width)
    opacity = _place(rng, outline(rng), height, width)
    behind = image[opacity > 0].mean(axis=0)
    surface = _surface(rng, pattern, _colour(rng, hue, 0.55), behind, height, width)
    opacity_soft = cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, 0.9))[..., None]
    image += (surface - image) * opacity_soft
    image *= 1 + 0.35 * (_clouds(rng, height, width, cells=2)[..., None] - 0.5)  # light
    grain = rng.standard_normal(image.shape, np.float32)
    image += grain * np.float32(rng.uniform(0.005, 0.03))  # sensor noise
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Sample(pixels, (opacity > 0.5).astype(np.uint8), label)


def box_of(mask: Array) -> tuple[int, int, int, int]:
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
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    splits = {"train": range(num_train), "val": range(num_train, num_train + num_val)}
    for split, indices in splits.items():
        names = "".join(f"{_name(index)}\n" for index in indices)
        (root / "ImageSets/Main" / f"{split}.txt").write_text(names)
    # Threads, since OpenCV and numpy let go of the interpreter lock while they draw.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(
            lambda index: _write_one(root, seed, index, size_px), range(num_train + num_val)
        ):
            pass  # wait, and raise what a thread raised


def _name(index: int) -> str:
    return f"{index:06d}"


def _write_one(root: Path, seed: int, index: int, size_px: int) -> None:
    image, mask, label = draw_sample(seed, index, size_px=size_px)
    name, (height, width) = _name(index), mask.shape
    jpeg = simplejpeg.encode_jpeg(image, quality=80 + index % 16)
    (root / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
    png = cv2.imencode(".png", mask)[1].tobytes()
    (root / "SegmentationClass" / f"{name}.png").write_bytes(png)
    x0, y0, x1, y1 = box_of(mask)
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"<object><name>{escape(CLASSES[label])}</name>"  # VOC counts from 1, corners included
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object></annotation>\n"
    )


# Outlines: a list of contours (points x y) that are filled one after the other, at any scale.


def _around(rng: Rng, radii: Array) -> Array:
    """The closed contour with these radii at evenly spaced angles, turned at random."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) + rng.uniform(0, 2 * np.pi)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ellipse(rng: Rng) -> list[Array]:
    return [_around(rng, np.ones(48)) * (1, rng.uniform(0.5, 1))]


def _polygon(rng: Rng) -> list[Array]:
    return [_around(rng, rng.uniform(0.8, 1, rng.integers(3, 6)))]


def _star(rng: Rng) -> list[Array]:
    radii = np.ones(2 * rng.integers(4, 8))
    radii[1::2] = rng.uniform(0.35, 0.55)
    return [_around(rng, radii)]


def _ring(rng: Rng) -> list[Array]:
    outer = _around(rng, np.ones(48))
    outer = np.concatenate([outer, outer[:1]])
    inner = outer[::-1] * rng.uniform(0.4, 0.6)
    return [np.concatenate([outer, inner])]  # one line around both edges


def _letter(rng: Rng) -> list[Array]:
    """A plus, T, L, U or H with strokes of one width."""
    t = rng.uniform(0.28, 0.42)
    strokes = {
        "+": [(0.5 - t / 2, 0, 0.5 + t / 2, 1), (0, 0.5 - t / 2, 1, 0.5 + t / 2)],
        "T": [(0.5 - t / 2, 0, 0.5 + t / 2, 1), (0, 0, 1, t)],
        "L": [(0, 0, t, 1), (0, 1 - t, 1, 1)],
        "U": [(0, 0, t, 1), (1 - t, 0, 1, 1), (0, 1 - t, 1, 1)],
        "H": [(0, 0, t, 1), (1 - t, 0, 1, 1), (0, 0.5 - t / 2, 1, 0.5 + t / 2)],
    }
    angle = rng.uniform(-0.4, 0.4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    chosen = strokes["+TLUH"[rng.integers(5)]]
    return [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ turn for x0, y0, x1, y1 in chosen]


def _blob(rng: Rng) -> list[Array]:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [
        rng.uniform(0.05, 0.25) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    ]
    return [_around(rng, 1 + np.sum(waves, axis=0))]


# Patterns: values in [0, 1] over coordinates u, v that grow by 2 pi a period.


def _stripes(u: Array, v: Array) -> Array:
    return np.sin(u)


def _checks(u: Array, v: Array) -> Array:
    return 2 * np.sin(u) * np.sin(v)


def _dots(u: Array, v: Array) -> Array:
    return np.cos(u) + np.cos(v) - 0.6


def _ripples(u: Array, v: Array) -> Array:
    return np.sin(np.hypot(u, v))


_OUTLINES: tuple[Callable[[Rng], list[Array]], ...] = (
    _ellipse,
    _polygon,
    _star,
    _ring,
    _letter,
    _blob,
)
_PATTERNS: tuple[Callable[[Array, Array], Array], ...] = (_stripes, _checks, _dots, _ripples)
_KINDS = tuple((_OUTLINES[k % 6], _PATTERNS[k % 4]) for k in range(12))  # all different
CLASSES = tuple(f"{o.__name__[1:]}-{p.__name__[1:]}" for o, p in _KINDS)


def _place(rng: Rng, contours: list[Array], height: int, width: int) -> Array:
    """The opacity (float32, h w) of an outline brought to a random size and place."""
    points = np.concatenate(contours)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    side = np.exp(rng.uniform(np.log(0.22), np.log(0.8)))  # of the image's side
    aspect = np.exp(rng.uniform(-0.35, 0.35))
    size = np.minimum([side * aspect, side / aspect], 0.95) * (width, height)
    corner = rng.uniform(0, 1, 2) * ((width, height) - size)
    canvas = np.zeros((height, width), np.uint8)
    for contour in contours:
        _fill(canvas, (contour - low) / extent * size + corner)
    return canvas.astype(np.float32) / 255


def _fill(canvas: Array, contour: Array) -> None:
    fixed = np.rint(contour * 16).astype(np.int32)  # in sixteenths of a pixel
    cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_AA, shift=4)


def _surface(
    rng: Rng,
    pattern: Callable[[Array, Array], Array],
    ink: Array,
    behind: Array,
    height: int,
    width: int,
) -> Array:
    """The object's pattern in its ink, on a ground that is often the colour behind it."""
    angle, period_px = rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.16) * min(height, width)
    step = 2 * math.pi / period_px
    x = (np.arange(width, dtype=np.float32) - rng.uniform(0, width)) * step
    y = (np.arange(height, dtype=np.float32)[:, None] - rng.uniform(0, height)) * step
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    share = np.clip(0.5 + 1.5 * pattern(u, v), 0, 1)[..., None]
    ground = behind if rng.random() < 0.3 else _colour(rng, rng.uniform(), 0, 0.5)
    while np.abs(ground - ink).sum() < 0.5:  # a pattern nobody sees is no pattern
        ground = _colour(rng, rng.uniform(), 0, 0.5)
    return ground + (ink - ground) * share


def _colour(rng: Rng, hue: float, low: float, high: float = 1) -> Array:
    """Red, green, blue in [0, 1] (float32) of a hue, with a saturation between bounds."""
    rgb = colorsys.hsv_to_rgb(hue % 1, rng.uniform(low, high), rng.uniform(0.3, 0.95))
    return np.array(rgb, np.float32)


# Backgrounds: irregular fields in [0, 1], each seen in two colours, in layers.


def _clouds(rng: Rng, height: int, width: int, *, cells: int, octaves: int = 1) -> Array:
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave + 1
        grid = rng.uniform(0, 1, (side, side)).astype(np.float32)
        grown = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        field += np.float32(0.5**octave) * grown
    return np.clip(field / (2 - 0.5 ** (octaves - 1)), 0, 1)


def _folds(rng: Rng, height: int, width: int) -> Array:
    warp = _clouds(rng, height, width, cells=3, octaves=2)
    return 0.5 + 0.5 * np.sin(warp * rng.uniform(15, 40))


def _gradient(rng: Rng, height: int, width: int) -> Array:
    corners = rng.uniform(0, 1, (2, 2)).astype(np.float32)
    grain = rng.random((height, width), np.float32)
    return 0.75 * cv2.resize(corners, (width, height)) + 0.25 * cv2.blur(grain, (3, 3))


def _tiles(rng: Rng, height: int, width: int) -> Array:
    grid = rng.uniform(0, 1, rng.integers(3, 9, size=2)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_NEAREST)


def _fields(rng: Rng, height: int, width: int) -> Iterator[Array]:
    """Endless fields in colour, float32, h w 3."""
    while True:
        kind = rng.integers(5)
        if kind <= 1:
            cells = int(rng.integers(2, 12))
            field = _clouds(rng, height, width, cells=cells, octaves=4)
            field = np.clip(0.5 + (field - 0.5) * rng.uniform(1, 3), 0, 1)
        else:
            field = (_folds, _gradient, _tiles)[kind - 2](rng, height, width)
        first, second = (_colour(rng, rng.uniform(), 0, 0.6) for _ in range(2))
        yield first + (second - first) * field[..., None]


def _background(rng: Rng, height: int, width: int) -> Array:
    """A field with clutter on it: patches of other fields, and strokes; float32, h w 3."""
    fields = _fields(rng, height, width)
    image = next(fields).astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        centre, reach = rng.uniform(0, 1, 2), rng.uniform(0.1, 0.4)
        corners = (centre + rng.uniform(-reach, reach, (4, 2))) * (width, height)
        patch = np.zeros((height, width), np.uint8)
        _fill(patch, cv2.convexHull(corners.astype(np.float32))[:, 0])
        image += (next(fields) - image) * (patch[..., None] / np.float32(255))
    for _ in range(rng.integers(0, 7)):
        start, end = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        colour = _colour(rng, rng.uniform(), 0).tolist()
        thickness = int(rng.integers(1, 4))
        cv2.line(image, start.astype(int).tolist(), end.astype(int).tolist(), colour, thickness)
    return image
