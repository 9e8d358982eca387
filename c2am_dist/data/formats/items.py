"""What every format is reduced to: a list of items, each an image and what is known of it."""

import dataclasses
import math
import posixpath
from collections.abc import Callable, Iterable, Sequence

from c2am_dist import storage
from c2am_dist.data.formats.regions import Regions
from c2am_dist.method.label_maps import LabelMap

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

Edges = tuple[float, float, float, float]
"""x0 y0 x1 y1, half-open, in the units of the frame they are given in."""

# Box edges within a hundredth of a pixel of a whole one are that one: they were written as
# fractions of six decimals, or as floats, from whole pixels.
_TOLERANCE_PX = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Blob:
    """Bytes somewhere: a file, or a part of one (a member of a tar)."""

    uri: str
    size_bytes: int
    offset: int | None = None
    """Where the part begins; None for a whole file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image as its annotation gives them."""

    edges: tuple[Edges, ...]
    labels: tuple[str | None, ...]
    frame: tuple[float, float] | None = None
    """(width, height) of the image in the units of the edges: the size that the annotation
    states, or (1, 1) for fractions; None for pixels of the image, whatever its size."""


@dataclasses.dataclass(frozen=True, slots=True)
class BoxFile:
    """Boxes in a file of their own, read when the image is: there can be a million."""

    blob: Blob
    parse: Callable[[bytes], Boxes]
    """Raises ValueError for what it cannot read. Must be picklable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    image_id: str
    image: Blob
    label: str | None = None
    boxes: Boxes | BoxFile | None = None
    """None: unknown."""
    classes: tuple[str, ...] | None = None
    """All classes of the image, where a format knows more of them than boxes and label say."""
    mask: Blob | Regions | None = None
    """A file of ids, or what ids are to be drawn from."""
    mask_labels: LabelMap | None = None
    """What the mask's ids mean, where the layout says so."""
    is_agreement_mask: bool = False
    """The mask holds the share of annotators who drew foreground, as CUB's do, not ids."""
    split: str | None = None

    @property
    def size_bytes(self) -> int:
        """What the item adds to a shard, annotations aside."""
        return self.image.size_bytes + (self.mask.size_bytes if self.mask else 0)


def pixel_boxes(boxes: Boxes, size: tuple[int, int]) -> tuple[list[list[int]], list[str | None]]:
    """The boxes in whole pixels of an upright image of size (height, width), and their labels.

    The smallest whole-pixel box around each, clipped to the image; what is then empty (no
    area, or outside the image) is dropped.

    Raises:
        ValueError: an edge is not a number, or the annotation states the image's size turned
            by 90 degrees, so its boxes are of the image before EXIF rotation.
    """
    height, width = size
    frame_width, frame_height = boxes.frame or (width, height)
    if (frame_height, frame_width) == (width, height) and width != height:
        raise ValueError(
            f"annotated at {frame_width:g}x{frame_height:g}, but upright the image is "
            f"{width}x{height}: the boxes are of the unturned image"
        )
    kept = []
    for edges, label in zip(boxes.edges, boxes.labels, strict=True):
        if not all(math.isfinite(edge) for edge in edges):
            raise ValueError(f"a box has an edge that is not a number: {edges}")
        x0, x1 = _span(edges[0], edges[2], frame_width, width)
        y0, y1 = _span(edges[1], edges[3], frame_height, height)
        if x1 > x0 and y1 > y0:
            kept.append(([x0, y0, x1, y1], label))
    return [box for box, _ in kept], [label for _, label in kept]


def _span(start: float, end: float, frame: float, size_px: int) -> tuple[int, int]:
    low, high = start * size_px / frame, end * size_px / frame
    if high <= low:  # without area, which rounding outward must not give it
        return 0, 0
    first, last = math.floor(low + _TOLERANCE_PX), math.ceil(high - _TOLERANCE_PX)
    return max(first, 0), min(last, size_px)


def split_of(items: list[Item], wanted: str | None) -> list[Item]:
    """The items of one split; in a set without splits, all of them, so named.

    Raises:
        ValueError: the set has splits, and not this one.
    """
    if wanted is None:
        return items
    splits = sorted({item.split for item in items if item.split is not None})
    if not splits:
        return [dataclasses.replace(item, split=wanted) for item in items]
    if wanted not in splits:
        raise ValueError(f"split: the set has {', '.join(splits)}, not {wanted!r}")
    return [item for item in items if item.split == wanted]


def check_unique(items: Iterable[Item]) -> None:
    """Raises ValueError naming two images with one id, or a file that is in the set twice."""
    by_id: dict[str, Item] = {}
    by_place: dict[tuple[str, int | None], Item] = {}
    for item in items:
        place = (item.image.uri, item.image.offset)
        if place in by_place:
            raise ValueError(f"{item.image.uri}: in the set twice, as {item.image_id}")
        other = by_id.get(item.image_id)
        if other is not None:
            raise ValueError(
                f"duplicate image_id {item.image_id!r}: {other.image.uri} and {item.image.uri}"
            )
        by_id[item.image_id], by_place[place] = item, item


def stem(path: str) -> str:
    """The last part of a path or URI without its extension."""
    return posixpath.splitext(storage.name(path))[0]


def files_below(folder: str) -> dict[str, Blob]:
    """All files below a folder by their path in it (POSIX), sorted.

    Raises:
        FileNotFoundError: there is no such folder; the message names it.
    """
    files = storage.walk(folder)
    if not files and not storage.exists(folder):
        raise FileNotFoundError(f"{folder}: no such folder")
    skip = len(storage.absolute(folder).rstrip("/")) + 1
    return {file.uri[skip:]: Blob(file.uri, file.size_bytes) for file in sorted(files)}


def images_in(files: dict[str, Blob]) -> dict[str, Blob]:
    """Those files whose names end like an image's."""
    return {path: blob for path, blob in files.items() if path.lower().endswith(IMAGE_SUFFIXES)}


def by_stem(files: dict[str, Blob], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Blob]:
    """Files of the given suffixes (images, if not said) by their path without it.

    Raises:
        ValueError: two files differ in nothing but the suffix; the message names both.
    """
    found: dict[str, Blob] = {}
    for path, blob in files.items():
        key, suffix = posixpath.splitext(path)
        if suffix.lower() in suffixes:
            if key in found:
                raise ValueError(f"{found[key].uri} and {blob.uri} stand for the same image")
            found[key] = blob
    return found


def read_lines(uri: str) -> list[str]:
    """The lines of a text file that are not blank, without surrounding space."""
    text = storage.read_bytes(uri).decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(uri: str, num_fields: int) -> list[list[str]]:
    """Rows of fields separated by blanks; the last field may hold blanks itself.

    Raises:
        ValueError: a row has fewer fields; the message names the file and the row.
    """
    rows = [line.split(None, num_fields - 1) for line in read_lines(uri)]
    for number, row in enumerate(rows, start=1):
        if len(row) < num_fields:
            raise ValueError(f"{uri}: row {number} needs {num_fields} fields, has {row}")
    return rows
