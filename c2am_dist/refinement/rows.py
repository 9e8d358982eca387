"""A shard to its file of pseudo masks, and to PNG files: what a task does.

It holds one row group of images, with the maps and cues that belong to it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import pyarrow as pa
import ray

from c2am_dist import names, schema, storage
from c2am_dist.data import row_files, shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.row_files import PlannedFile
from c2am_dist.method import images
from c2am_dist.method.label_maps import encode_mask
from c2am_dist.refinement import masks, sources
from c2am_dist.refinement.masks import Refinement
from c2am_dist.refinement.sources import Found, RefusedError, ShardSource

_WRITES_AT_ONCE = 16
_OPTIONAL = ("width", "height", "labels")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a job does to every shard."""

    how: Refinement
    common: Mapping[str, str | None]
    """Columns that all rows have alike."""
    metadata: Mapping[str, str]
    """Of every file."""
    png_folder: str
    """URI of the folder of PNG files; empty for none."""


# Storage's hiccups are worth another try: writing is idempotent.
@ray.remote(num_cpus=1, retry_exceptions=[OSError])  # type: ignore
def refine_shard(
    file: PlannedFile, maps: ShardSource, cues: ShardSource | None, work: Work
) -> LabelFile:
    """Writes the masks of a shard, and says what ``_SUCCESS`` will list of them.

    Raises:
        ValueError: the shard cannot be read, or maps or cues do not belong to its images.
    """
    cv2.setNumThreads(1)  # tasks share the cores among themselves
    groups = shards.index([file.shard], columns=["image_id"], allow_empty=True)
    columns = _columns(file.shard, work)
    map_reader = sources.reader(maps, file.shard)
    cue_reader = None if cues is None else sources.reader(cues, file.shard)
    tables = []
    for group in groups:
        table = shards.read(group, columns)
        ids = table["image_id"].to_pylist()
        found_maps = map_reader.read(ids)
        found_cues = [None] * len(ids) if cue_reader is None else cue_reader.read(ids)
        rows = []
        for i, (map_found, cue_found) in enumerate(zip(found_maps, found_cues, strict=True)):
            (image,) = table.slice(i, 1).to_pylist()
            rows.append(mask_row(image, storage.name(file.shard), map_found, cue_found, work))
        _write_pngs(rows, work.png_folder)
        tables.append(pa.Table.from_pylist(rows, schema.PSEUDO_MASKS))
    for reader in (map_reader, cue_reader):
        if reader is not None:
            reader.end()
    # The shard's row groups, so that a reader of both finds the same rows in each.
    cuts = [group.num_rows for group in groups]
    return row_files.write_rows(file, schema.PSEUDO_MASKS, work.metadata, cuts, *tables)


def _columns(shard: str, work: Work) -> list[str]:
    """What to read of a shard; pixels only where something looks at them."""
    arrow_schema = shards.read_schema(shard)
    columns = ["image_id", *(name for name in _OPTIONAL if name in arrow_schema.names)]
    if work.how.kind != "none" or not {"width", "height"} <= set(columns):
        columns.append("image")
    shards.check_columns(shard, arrow_schema, columns)
    return columns


def mask_row(
    image: Mapping[str, Any], shard: str, maps: Found, cue: Found | None, work: Work
) -> dict[str, Any]:
    """The row of an image; with ``error`` where it gets no mask.

    Raises:
        RefusedError: maps or cue do not belong to the image, or a class is not in the label map.
    """
    row = {"image_id": image["image_id"], "shard": shard, **work.common}
    try:
        names.check(image["image_id"], "image_id")
        size = _size(image)
        row |= {"height": size[0], "width": size[1]}
        return row | _found(image, size, maps, cue, work.how)
    except RefusedError:
        raise
    except ValueError as error:
        return row | {"error": str(error)}


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    if "width" in image and "height" in image:
        return image["height"], image["width"]
    return images.header(image["image"])


def _found(
    image: Mapping[str, Any], size: tuple[int, int], maps: Found, cue: Found | None, how: Refinement
) -> dict[str, Any]:
    num_pixels = size[0] * size[1]
    if num_pixels > how.max_pixels:
        raise ValueError(
            f"{size[1]}x{size[0]} is {num_pixels / 1e6:.0f} megapixels, more than the limit of "
            f"{how.max_pixels / 1e6:g}"
        )
    class_maps = masks.class_maps(image["image_id"], size, image.get("labels"), maps, how.label_map)
    background = None if cue is None else masks.background_cue(image["image_id"], size, cue)
    pixels = None
    if how.kind != "none" and class_maps.ids:
        pixels = images.decode(image["image"], max_pixels=how.max_pixels)
    mask = masks.pseudo_mask(class_maps, background, pixels, how)
    return {
        "pseudo_mask": encode_mask(mask),
        "classes": [how.label_map.name_of(class_id) for class_id in class_maps.ids],
    }


def _write_pngs(rows: Sequence[Mapping[str, Any]], folder: str) -> None:
    """Each mask as a file, whole or not at all; before the rows, so that none lacks its file."""
    if not folder:
        return
    made = [row for row in rows if row.get("pseudo_mask") is not None]

    def write(row: Mapping[str, Any]) -> None:
        uri = storage.join(folder, f"{names.file_path(row['image_id'])}.png")
        storage.write_bytes(uri, row["pseudo_mask"])

    with ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:  # mostly latency, over a network
        list(pool.map(write, made))
