"""Generated images of several objects with exact masks: where a classifier sees only a part.

What is asked of weakly supervised segmentation, in small. A body of any class has one of the same
outlines and bright colours, so bodies as a whole differ from the duller background and not from
each other; a third of it, the head, bears the class's own regular pattern and hue. A classifier
needs the head alone, and its class activation maps find little else. Two classes stand on a ground
of their own (rails, waves) most of the time, into which their maps bleed.

``python -m c2am_dist.data.scenes ROOT`` writes a set in VOC's layout.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro

from c2am_dist.data import drawing
from c2am_dist.data.synthetic import Box, box_of, draw_all, lay_out_voc, write_image
from c2am_dist.method.confusion import IGNORED
from c2am_dist.method.label_maps import encode_mask

Array = np.ndarray
Rng = np.random.Generator

_HEADS: dict[str, tuple[float, drawing.Pattern]] = {  # hue and pattern
    "red-stripes": (0.0, drawing.stripes),
    "yellow-checks": (0.15, drawing.checks),
    "green-dots": (0.35, drawing.dots),
    "cyan-ripples": (0.5, drawing.ripples),
    "blue-stripes": (0.65, drawing.stripes),
    "violet-checks": (0.82, drawing.checks),
}
CLASSES = tuple(_HEADS)
"""Class i has id i + 1 in masks."""
_BODIES = (drawing.ellipse, drawing.polygon, drawing.blob)
_HEAD_SHARE = 1 / 3
_SIDES = (0.2, 0.65)  # of the image's
_NUM_OBJECTS = (0.4, 0.35, 0.25)  # how likely one, two and three are
# An object of which less is left when others lie on it, or on its head, is not drawn at all.
_LEAST_VISIBLE = 0.5
_GROUND_RATE, _STRAY_GROUND_RATE = 0.85, 0.08  # with its class, and with any other


class Scene(NamedTuple):
    """A generated image and what is known of it."""

    image: Array
    """uint8, h w 3, RGB."""
    mask: Array
    """uint8, h w: ids 1 to 6 on the objects, 0 elsewhere."""
    heads: Array
    """uint8, h w: 1 on the parts that tell the class, 0 elsewhere."""
    objects: tuple[tuple[int, Box], ...]
    """Id and box of each object, of what is visible; what lies on top comes last."""


class _Body(NamedTuple):
    class_index: int
    opacity: Array
    is_head: Array


def draw_scene(seed: int, index: int, *, size_px: int = 128) -> Scene:
    """The image number ``index`` of a set: the same for the same arguments, everywhere.

    Its sides lie within an eighth of ``size_px``.
    """
    rng = np.random.default_rng([seed, index])
    height, width = rng.integers(size_px * 7 // 8, size_px * 9 // 8 + 1, size=2).tolist()
    bodies = _bodies(rng, height, width)
    image = drawing.background(rng, height, width)
    for body in bodies:
        _draw_ground(rng, image, body)
    mask, heads = np.zeros((2, height, width), np.uint8)
    instances = np.zeros((height, width), np.uint8)
    for number, body in enumerate(bodies, start=1):
        _draw_body(rng, image, body)
        is_body = body.opacity > 0.5
        mask[is_body], instances[is_body] = body.class_index + 1, number
        heads[is_body] = body.is_head[is_body]
    objects = tuple(
        (body.class_index + 1, box_of(instances == number))
        for number, body in enumerate(bodies, start=1)
    )
    return Scene(drawing.photograph(rng, image), mask, heads, objects)


def outlined(scene: Scene, outline_px: int) -> Array:
    """The scene's mask with 255 on a line of that width around every class, as VOC's have.

    The line lies outside the objects, on background or on a class of lower id.
    """
    grown = cv2.dilate(scene.mask, np.ones((2 * outline_px + 1,) * 2, np.uint8))
    return np.where(grown != scene.mask, np.uint8(IGNORED), scene.mask)


def write_voc_scenes(
    root: str | Path,
    *,
    num_train: int,
    num_val: int,
    seed: int = 0,
    size_px: int = 128,
    outline_px: int = 1,
) -> None:
    """Writes a set in VOC's layout to a local folder, which `jobs/prepare.py` then reads.

    JPEGImages, Annotations, SegmentationClass (ids in VOC's colours; 255 around objects),
    ImageSets/{Main,Segmentation}/{train,val}.txt, and classes.txt, a class a line from id 1 on.
    Byte-identical for the same arguments.

    Raises:
        FileExistsError: the folder holds a set already, perhaps another one.
    """
    root = Path(root)
    lay_out_voc(root, num_train, num_val, lists=("Main", "Segmentation"))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))

    def write_one(index: int) -> None:
        scene = draw_scene(seed, index, size_px=size_px)
        objects = [(CLASSES[class_id - 1], box) for class_id, box in scene.objects]
        png = encode_mask(outlined(scene, outline_px))
        write_image(root, index, scene.image, png, objects)

    draw_all(write_one, num_train + num_val)


def _bodies(rng: Rng, height: int, width: int) -> list[_Body]:
    """One to three objects, the topmost last, each of which can be told."""
    bodies: list[_Body] = []
    wanted = 1 + int(rng.choice(len(_NUM_OBJECTS), p=_NUM_OBJECTS))
    for _ in range(4 * wanted):
        if len(bodies) == wanted:
            break
        outline = _BODIES[rng.integers(len(_BODIES))]
        opacity = drawing.place(rng, outline(rng), height, width, sides=_SIDES)
        body = _Body(int(rng.integers(len(CLASSES))), opacity, _head(rng, opacity))
        if all(_is_visible(below, [*bodies, body][n + 1 :]) for n, below in enumerate(bodies)):
            bodies.append(body)
    return bodies


def _head(rng: Rng, opacity: Array) -> Array:
    """A third of a body, at one end of it (bool, h w)."""
    rows, columns = np.nonzero(opacity > 0.5)
    angle = rng.uniform(0, 2 * math.pi)
    along = math.cos(angle) * columns + math.sin(angle) * rows
    is_head = np.zeros(opacity.shape, bool)
    chosen = along >= np.quantile(along, 1 - _HEAD_SHARE)
    is_head[rows[chosen], columns[chosen]] = True
    return is_head


def _is_visible(body: _Body, above: list[_Body]) -> bool:
    is_covered = np.any([other.opacity > 0.5 for other in above], axis=0)
    return all(
        (part & ~is_covered).sum() >= _LEAST_VISIBLE * part.sum()
        for part in (body.opacity > 0.5, body.is_head)
    )


def _draw_body(rng: Rng, image: Array, body: _Body) -> None:
    """The body in two bright colours, darker towards its edge; the head in its pattern."""
    height, width = body.opacity.shape
    is_body = (body.opacity > 0.5).astype(np.uint8)
    share = drawing.clouds(rng, height, width, cells=int(rng.integers(3, 9)), octaves=2)
    first, second = (_bright(rng, rng.uniform()) for _ in range(2))
    surface = first + (second - first) * np.clip(3 * share - 1, 0, 1)[..., None]
    hue, pattern = _HEADS[CLASSES[body.class_index]]
    ink, ground = _bright(rng, hue + rng.uniform(-0.03, 0.03)), np.float32(rng.uniform(0.85, 1))
    side_px = 2.4 * math.sqrt(float(is_body.sum()))
    shown = drawing.repeat(rng, pattern, side_px, height, width)[..., None]
    surface = np.where(body.is_head[..., None], ground + (ink - ground) * shown, surface)
    depth = cv2.distanceTransform(is_body, cv2.DIST_L2, 3)[..., None]
    light = 0.6 + 0.4 * np.clip(depth / (0.6 * depth.max()), 0, 1)
    drawing.lay(rng, image, surface * light, body.opacity)


def _bright(rng: Rng, hue: float) -> Array:
    colour = drawing.colour(rng, hue, 0.75)
    return colour / colour.max() * np.float32(rng.uniform(0.85, 1))


def _draw_ground(rng: Rng, image: Array, body: _Body) -> None:
    """The ground of the body's class, if it has one and in most images; rarely another's."""
    own = _GROUNDS.get(CLASSES[body.class_index])
    ground = own if own else list(_GROUNDS.values())[rng.integers(len(_GROUNDS))]
    if rng.random() < (_GROUND_RATE if own else _STRAY_GROUND_RATE):
        rows, columns = np.nonzero(body.opacity > 0.5)
        ground(rng, image, (float(columns.mean()), float(rows.mean())))


def _rails(rng: Rng, image: Array, centre: tuple[float, float]) -> None:
    """Two grey rails on sleepers, through the centre and across the image."""
    side_px = min(image.shape[:2])
    gauge, angle = side_px * rng.uniform(0.1, 0.16), rng.uniform(-0.5, 0.5)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    grey, brown = (0.3, 0.3, 0.32), (0.36, 0.3, 0.24)
    for step in np.arange(-2 * side_px, 2 * side_px, gauge * 0.7):
        _stroke(image, centre + along * step, across * gauge * 1.5, brown, gauge * 0.22)
    for offset in (-gauge, gauge):
        _stroke(image, centre + across * offset, along * 2 * side_px, grey, gauge * 0.16)


def _stroke(
    image: Array, middle: Array, half: Array, colour: tuple[float, ...], width_px: float
) -> None:
    ends = [np.rint(end).astype(int).tolist() for end in (middle - half, middle + half)]
    cv2.line(image, ends[0], ends[1], colour, max(1, round(width_px)), cv2.LINE_AA)


def _waves(rng: Rng, image: Array, centre: tuple[float, float]) -> None:
    """A patch of level waves, grey-blue, around the centre and wider than high."""
    height, width = image.shape[:2]
    side_px = min(height, width)
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    reach = side_px * rng.uniform(0.4, 0.55)
    canvas = np.zeros((height, width), np.uint8)
    points = np.stack([1.4 * reach * np.cos(angles), 0.7 * reach * np.sin(angles)], axis=1)
    drawing.fill(canvas, points + centre)
    rows = np.arange(height, dtype=np.float32)[:, None]
    bend = 3 * drawing.clouds(rng, height, width, cells=4)
    shown = 0.5 + 0.5 * np.sin(rows * (2 * math.pi / (0.07 * side_px)) + bend)
    dark, pale = np.array([[0.28, 0.36, 0.45], [0.52, 0.6, 0.66]], np.float32)
    surface = dark + (pale - dark) * shown[..., None]
    drawing.lay(rng, image, surface, canvas.astype(np.float32) / 255)


_GROUNDS: dict[str, Callable[[Rng, Array, tuple[float, float]], None]] = {
    "blue-stripes": _rails,
    "violet-checks": _waves,
}


def _main(
    root: tyro.conf.Positional[str],
    /,
    *,
    num_train: int = 2000,
    num_val: int = 500,
    seed: int = 0,
    size_px: int = 128,
    outline_px: int = 1,
) -> None:
    """Write generated images of several objects, with masks, in VOC's layout.

    Args:
        root: Folder to write, made anew.
        num_train: Images of the split train.
        num_val: Images of the split val.
        seed: Other images for another one.
        size_px: Sides of the images, give or take an eighth.
        outline_px: Width of the ignored line around objects; 0 for none.
    """
    write_voc_scenes(
        root,
        num_train=num_train,
        num_val=num_val,
        seed=seed,
        size_px=size_px,
        outline_px=outline_px,
    )


if __name__ == "__main__":
    tyro.cli(_main)
