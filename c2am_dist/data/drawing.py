"""What generated images are drawn with: outlines, patterns, colours and backgrounds."""

import colorsys
import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np

Array = np.ndarray
Rng = np.random.Generator
Outline = Callable[[Rng], list[Array]]
Pattern = Callable[[Array, Array], Array]

# Outlines: a list of contours (points x y) that are filled one after the other, at any scale.


def _around(rng: Rng, radii: Array) -> Array:
    """The closed contour with these radii at evenly spaced angles, turned at random."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False) + rng.uniform(0, 2 * np.pi)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ellipse(rng: Rng) -> list[Array]:
    return [_around(rng, np.ones(48)) * (1, rng.uniform(0.5, 1))]


def polygon(rng: Rng) -> list[Array]:
    return [_around(rng, rng.uniform(0.8, 1, rng.integers(3, 6)))]


def star(rng: Rng) -> list[Array]:
    radii = np.ones(2 * rng.integers(4, 8))
    radii[1::2] = rng.uniform(0.35, 0.55)
    return [_around(rng, radii)]


def ring(rng: Rng) -> list[Array]:
    outer = _around(rng, np.ones(48))
    outer = np.concatenate([outer, outer[:1]])
    inner = outer[::-1] * rng.uniform(0.4, 0.6)
    return [np.concatenate([outer, inner])]  # one line around both edges


def letter(rng: Rng) -> list[Array]:
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


def blob(rng: Rng) -> list[Array]:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [
        rng.uniform(0.05, 0.25) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    ]
    return [_around(rng, 1 + np.sum(waves, axis=0))]


# Patterns: values in [0, 1] over coordinates u, v that grow by 2 pi a period.


def stripes(u: Array, v: Array) -> Array:
    return np.sin(u)


def checks(u: Array, v: Array) -> Array:
    return 2 * np.sin(u) * np.sin(v)


def dots(u: Array, v: Array) -> Array:
    return np.cos(u) + np.cos(v) - 0.6


def ripples(u: Array, v: Array) -> Array:
    return np.sin(np.hypot(u, v))


OUTLINES: tuple[Outline, ...] = (ellipse, polygon, star, ring, letter, blob)
PATTERNS: tuple[Pattern, ...] = (stripes, checks, dots, ripples)


def place(
    rng: Rng, contours: list[Array], height: int, width: int, *, sides: tuple[float, float]
) -> Array:
    """The opacity (float32, h w) of an outline brought to a random size and place.

    Its side lies between ``sides``, in shares of the image's, give or take its aspect.
    """
    points = np.concatenate(contours)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    side = np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1])))
    aspect = np.exp(rng.uniform(-0.35, 0.35))
    size = np.minimum([side * aspect, side / aspect], 0.95) * (width, height)
    corner = rng.uniform(0, 1, 2) * ((width, height) - size)
    canvas = np.zeros((height, width), np.uint8)
    for contour in contours:
        fill(canvas, (contour - low) / extent * size + corner)
    return canvas.astype(np.float32) / 255


def fill(canvas: Array, contour: Array) -> None:
    fixed = np.rint(contour * 16).astype(np.int32)  # in sixteenths of a pixel
    cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_AA, shift=4)


def repeat(rng: Rng, pattern: Pattern, side_px: float, height: int, width: int) -> Array:
    """How much of its ink a pattern shows, float32, h w, in [0, 1]: turned and moved at random.

    A period is 0.08 to 0.16 of ``side_px``.
    """
    angle, period_px = rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.16) * side_px
    step = 2 * math.pi / period_px
    x = (np.arange(width, dtype=np.float32) - rng.uniform(0, width)) * step
    y = (np.arange(height, dtype=np.float32)[:, None] - rng.uniform(0, height)) * step
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    return np.clip(0.5 + 1.5 * pattern(u, v), 0, 1)


def colour(rng: Rng, hue: float, low: float, high: float = 1) -> Array:
    """Red, green, blue in [0, 1] (float32) of a hue, with a saturation between bounds."""
    rgb = colorsys.hsv_to_rgb(hue % 1, rng.uniform(low, high), rng.uniform(0.3, 0.95))
    return np.array(rgb, np.float32)


# Backgrounds: irregular fields in [0, 1], each seen in two colours, in layers.


def clouds(rng: Rng, height: int, width: int, *, cells: int, octaves: int = 1) -> Array:
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave + 1
        grid = rng.uniform(0, 1, (side, side)).astype(np.float32)
        grown = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        field += np.float32(0.5**octave) * grown
    return np.clip(field / (2 - 0.5 ** (octaves - 1)), 0, 1)


def _folds(rng: Rng, height: int, width: int) -> Array:
    warp = clouds(rng, height, width, cells=3, octaves=2)
    return 0.5 + 0.5 * np.sin(warp * rng.uniform(15, 40))


def _gradient(rng: Rng, height: int, width: int) -> Array:
    corners = rng.uniform(0, 1, (2, 2)).astype(np.float32)
    grain = rng.random((height, width), np.float32)
    return 0.75 * cv2.resize(corners, (width, height)) + 0.25 * cv2.blur(grain, (3, 3))


def _tiles(rng: Rng, height: int, width: int) -> Array:
    grid = rng.uniform(0, 1, rng.integers(3, 9, size=2)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_NEAREST)


def fields(rng: Rng, height: int, width: int) -> Iterator[Array]:
    """Endless fields in colour, float32, h w 3."""
    while True:
        kind = rng.integers(5)
        if kind <= 1:
            cells = int(rng.integers(2, 12))
            field = clouds(rng, height, width, cells=cells, octaves=4)
            field = np.clip(0.5 + (field - 0.5) * rng.uniform(1, 3), 0, 1)
        else:
            field = (_folds, _gradient, _tiles)[kind - 2](rng, height, width)
        first, second = (colour(rng, rng.uniform(), 0, 0.6) for _ in range(2))
        yield first + (second - first) * field[..., None]


def background(rng: Rng, height: int, width: int) -> Array:
    """A field with clutter on it: patches of other fields, and strokes; float32, h w 3."""
    layers = fields(rng, height, width)
    image = next(layers).astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        centre, reach = rng.uniform(0, 1, 2), rng.uniform(0.1, 0.4)
        corners = (centre + rng.uniform(-reach, reach, (4, 2))) * (width, height)
        patch = np.zeros((height, width), np.uint8)
        fill(patch, cv2.convexHull(corners.astype(np.float32))[:, 0])
        image += (next(layers) - image) * (patch[..., None] / np.float32(255))
    for _ in range(rng.integers(0, 7)):
        start, end = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        stroke = colour(rng, rng.uniform(), 0).tolist()
        thickness = int(rng.integers(1, 4))
        cv2.line(image, start.astype(int).tolist(), end.astype(int).tolist(), stroke, thickness)
    return image


def lay(rng: Rng, image: Array, surface: Array, opacity: Array) -> None:
    """Lays a surface on the image (float32, h w 3) where it is opaque, with soft edges."""
    opacity_soft = cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, 0.9))[..., None]
    image += (surface - image) * opacity_soft


def photograph(rng: Rng, image: Array) -> Array:
    """The image as a camera would see it, uint8: unevenly lit, with noise."""
    height, width = image.shape[:2]
    image = image * (1 + 0.35 * (clouds(rng, height, width, cells=2)[..., None] - 0.5))
    grain = rng.standard_normal(image.shape, np.float32)
    image += grain * np.float32(rng.uniform(0.005, 0.03))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
