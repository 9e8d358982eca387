"""Data sets to Parquet shards, read and written by Ray Data tasks, a shard each."""

import dataclasses
import pickle
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from tqdm import tqdm

from c2am_dist import names, schema, storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data import masks
from c2am_dist.data.formats import Blob, BoxFile, Item
from c2am_dist.data.formats.items import pixel_boxes
from c2am_dist.data.shard_plan import Plan, ShardPlan, plan
from c2am_dist.method import images

# Files read at once by a task, and so held in memory: reading over the network is waiting.
_READS_AT_ONCE = 16
_FEW_VALUES = ["label", "labels.list.element", "split", "box_labels.list.element"]
_MAX_FILE_BYTES = 512 * 2**20
"""More than the largest image that is decoded takes without compression."""


@dataclasses.dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard once it is written."""

    num_images: int
    num_bytes: int
    errors: tuple[dict[str, str], ...]
    """Rows of ``schema.ERRORS``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """How a prepare job went; ``num_images`` counts those in shards."""

    num_images: int
    num_shards: int
    num_bytes: int
    num_errors: int
    errors_uri: str


def prepare(config: PrepareConfig) -> Summary:
    """Writes a data set as Parquet shards: `write` of its `plan`, with the errors of both."""
    return write(plan(config))


def write(planned: Plan) -> Summary:
    """Writes ``shard-00000-of-000NN.parquet`` files and, last, ``errors.parquet``.

    Needs a running Ray. Images that cannot be read are rows of errors.parquet, which may have
    none, and are in no shard. A folder without errors.parquet is unfinished.

    Raises:
        ValueError: none of the images could be read; the message says where the reasons are.
    """
    results = []
    interval_s = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(total=planned.num_images, unit=" images", mininterval=interval_s) as progress:
        for result in _write_all(planned.shards):
            results.append(result)
            progress.update(result.num_images + len(result.errors))
    errors = sorted(
        (error for result in results for error in result.errors),
        key=lambda error: (error["image_id"], error["uri"]),
    )
    errors_uri = storage.join(planned.output, "errors.parquet")
    with storage.create(errors_uri) as stream:
        pq.write_table(pa.Table.from_pylist(errors, schema=schema.ERRORS), stream)
    if len(errors) == planned.num_images:
        raise ValueError(f"none of {len(errors)} images could be read: see {errors_uri}")
    return Summary(
        num_images=planned.num_images - len(errors),
        num_shards=len(planned.shards),
        num_bytes=sum(result.num_bytes for result in results),
        num_errors=len(errors),
        errors_uri=errors_uri,
    )


def _write_all(shards: Sequence[ShardPlan]) -> Iterator[ShardResult]:
    """The results as they come in, in any order."""
    rows = [{"plan": pickle.dumps(shard)} for shard in shards]
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_write_row)
    for row in written.iter_rows():
        yield pickle.loads(row["result"])


def _write_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"result": pickle.dumps(write_shard(pickle.loads(row["plan"])))}


def write_shard(shard: ShardPlan) -> ShardResult:
    """Reads a shard's images and writes its file, one row group in memory at a time."""
    num_images, errors = 0, []
    with storage.create(shard.uri) as stream:
        with pq.ParquetWriter(
            stream,
            schema.SHARD.with_metadata(shard.metadata),
            version="2.6",
            data_page_version="1.0",
            compression="none",  # the images are compressed, the rest is small
            use_dictionary=_FEW_VALUES,  # type: ignore
            write_statistics=["image_id", "width", "height", "label", "split"],  # type: ignore
        ) as writer:
            for rows in _row_groups(shard, errors):
                writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
                num_images += len(rows)
        num_bytes = stream.tell()
    return ShardResult(num_images=num_images, num_bytes=num_bytes, errors=tuple(errors))


def _row_groups(shard: ShardPlan, errors: list[dict[str, str]]) -> Iterator[list[dict[str, Any]]]:
    """Lists of rows of about ``row_group_bytes``; what cannot be read goes to ``errors``."""
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for item, content in _contents(shard.items):
        try:
            if isinstance(content, Exception):
                raise content
            rows.append(make_row(item, *content))
        except (ValueError, OSError, EOFError) as error:
            row = {"image_id": item.image_id, "uri": item.image.uri, "error": str(error)}
            errors.append({column: names.printable(text) for column, text in row.items()})
            continue
        num_bytes += len(rows[-1]["image"]) + len(rows[-1]["mask"] or b"")
        if num_bytes >= shard.row_group_bytes:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


Content = tuple[bytes, bytes | None, bytes | None]
"""An item's image, mask, and box file."""


def _contents(items: Sequence[Item]) -> Iterator[tuple[Item, Content | Exception]]:
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        for start in range(0, len(items), _READS_AT_ONCE):
            some = items[start : start + _READS_AT_ONCE]
            yield from zip(some, pool.map(_read, some), strict=True)


def _read(item: Item) -> Content | Exception:
    box_file = item.boxes.blob if isinstance(item.boxes, BoxFile) else None
    try:
        names.check(item.image_id, "image_id")  # which many layouts make the path from
        image = _read_blob(item.image)
        mask = _read_blob(item.mask) if isinstance(item.mask, Blob) else None
        return image, mask, _read_blob(box_file) if box_file else None
    except (OSError, EOFError, ValueError) as error:
        return error


def _read_blob(blob: Blob) -> bytes:
    if blob.size_bytes > _MAX_FILE_BYTES:
        raise ValueError(f"{blob.uri}: {blob.size_bytes} bytes, the limit is {_MAX_FILE_BYTES}")
    if blob.offset is None:
        return storage.read_bytes(blob.uri)
    return storage.read_range(blob.uri, offset=blob.offset, size_bytes=blob.size_bytes)


def make_row(
    item: Item, image: bytes, mask: bytes | None = None, box_file: bytes | None = None
) -> dict[str, Any]:
    """The row of ``schema.SHARD`` of an item and its files' content.

    Raises:
        ValueError: the image, the mask or the annotation cannot be read, or they do not fit
            each other; the message says which.
    """
    height, width = images.header(image)
    # Decoded to find what is cut off or broken inside; small, where JPEG can be, to save time.
    images.decode(image, min_side_px=1)
    boxes = item.boxes
    try:
        if isinstance(boxes, BoxFile):
            boxes = boxes.parse(box_file or b"")
        found = pixel_boxes(boxes, (height, width)) if boxes else (None, None)
        for text in (item.label, *(item.classes or ()), *(found[1] or ())):
            (text or "").encode()  # what JSON calls a string need not be one
    except (ValueError, OverflowError) as error:
        raise ValueError(f"annotation: {error}") from error
    mask_png, mask_classes = masks.read(item, mask, (height, width))
    labels = _labels(item, found[1], mask_classes)
    named = [name for name in found[1] or () if name is not None] if labels is None else labels
    return {
        "image_id": item.image_id,
        "image": image,
        "width": width,
        "height": height,
        # An image whose objects are all of one class is of that class.
        "label": item.label or (named[0] if len(set(named)) == 1 else None),
        "labels": labels,
        "boxes": found[0],
        "box_labels": found[1],
        "mask": mask_png,
        "split": item.split,
    }


def _labels(
    item: Item, box_labels: Sequence[str | None] | None, mask_classes: Sequence[str] | None
) -> list[str] | None:
    """All classes of an image, sorted; None where nothing tells them.

    What the format says itself comes first, then the boxes, if each of them is named, and where
    no boxes are known the mask. The image's own label is always among them.
    """
    known: Sequence[str] | None = item.classes
    if known is None and box_labels is not None:
        named = [name for name in box_labels if name is not None]
        known = named if len(named) == len(box_labels) else None
    elif known is None:
        known = mask_classes
    own = [item.label] if item.label else []
    return sorted({*known, *own}) if known is not None else own or None
