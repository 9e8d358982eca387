"""Background cues as PNG files: what jobs/refine.py and other projects read from a folder."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from c2am_dist import names, schema
from c2am_dist.config import ExportConfig
from c2am_dist.data import label_set, shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.export.folder import Folder
from c2am_dist.export.pictures import Picture, Pictures
from c2am_dist.export.samples import batches, find_picture
from c2am_dist.method import cues, images

COLUMNS = ("image_id", "shard", "width", "height", "background_cue", "error")
_OF_BOXES = ("min_score", "max_boxes", "quantile", "category_name", "keep_empty")


class CueSample(NamedTuple):
    """An image with its background cue, as it is exported."""

    name: str
    """Path of its files, without extension."""
    cue: bytes
    """8-bit grayscale PNG of the image's size, 255 = background."""
    picture: Picture | None
    """None where images are not exported."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CueExportReport:
    """How an export of background cues went."""

    num_images: int
    """Exported."""
    num_enlarged: int
    """Exported images whose cue was stored smaller than they are."""
    num_left_out: int
    """Images not exported since no cue was written of them."""
    num_errors: int
    """Images not exported since they could not be labeled, or not be written upright."""
    num_rewritten: int
    """Exported images whose bytes are not the shard's: turned upright, or made a PNG."""


def check(config: ExportConfig) -> None:
    """Refuses what cannot be exported as cues, by reading footers.

    Raises:
        ValueError: a field is about boxes, or a label set has no cues; it is named.
    """
    usual = ExportConfig()
    for name in _OF_BOXES:
        if getattr(config, name) != getattr(usual, name):
            raise ValueError(f"{name} must be unset with cues, which have no boxes")
    for uri in config.labels:
        files = label_set.expand([uri], allow_incomplete=config.allow_incomplete)
        groups = shards.index(
            [file.uri for file in files], columns=COLUMNS, expected=schema.LABELS, allow_empty=True
        )
        num_nulls = sum(
            shards.count_nulls(file.uri, "background_cue", schema.LABELS) for file in files
        )
        if groups and num_nulls == sum(group.num_rows for group in groups):
            raise ValueError(f"{uri}: no image has a background cue: label with --write-cues")


def stream(
    groups: Sequence[RowGroup], pictures: Pictures | None, counts: Counter[str]
) -> Iterator[CueSample]:
    """The samples in the order of the labels; what happens to each image is counted.

    ``counts`` gets ``images`` exported, of these those ``enlarged`` and ``rewritten``; and those
    not exported: ``errors`` and ``left_out``.

    Raises:
        ValueError: a cue cannot be read, or the shards lack an image or have it in another size;
            the message names the file and the image.
    """
    for group in groups:
        for rows in batches(group, COLUMNS):
            for row in rows:
                try:
                    sample = _sample(row, pictures, counts)
                except ValueError as error:
                    raise ValueError(f"{group.uri}: {row['image_id']!r}: {error}") from error
                if sample is not None:
                    counts["images"] += 1
                    yield sample


def write(samples: Iterable[CueSample], folder: Folder) -> None:
    """Writes ``cues`` (8-bit grayscale PNG, 255 = background) and ``images``."""
    for sample in samples:
        if sample.picture is not None:
            folder.put(f"images/{sample.name}{sample.picture.suffix}", sample.picture.data)
        folder.put(f"cues/{sample.name}.png", sample.cue)


def _sample(
    row: dict[str, Any], pictures: Pictures | None, counts: Counter[str]
) -> CueSample | None:
    if row["error"] is not None or row["background_cue"] is None:
        counts["left_out" if row["error"] is None else "errors"] += 1
        return None
    picture = None
    if pictures is not None:
        picture = find_picture(row, pictures, counts)
        if picture is None:
            return None
    names.check(row["image_id"], "image_id")
    cue = _cue(row)
    counts["enlarged"] += cue is not row["background_cue"]
    return CueSample(names.file_path(row["image_id"]), cue, picture)


def _cue(row: dict[str, Any]) -> bytes:
    """The cue at its image's size: its very bytes where it is stored so."""
    size = (row["height"], row["width"])
    if None in size:
        raise ValueError("a label without error must have width and height")
    cue = images.decode_png8(row["background_cue"])
    if cue.shape == size:
        return row["background_cue"]
    return images.encode_png8(cues.enlarge(cue, size))
