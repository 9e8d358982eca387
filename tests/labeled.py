"""Small label sets with the shards they are of, for what reads labels."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from c2am_dist import schema
from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile
from c2am_dist.method import images

Box = tuple[int, int, int, int, float]
"""x0 y0 x1 y1, half-open, and the score."""
CHECKPOINT = "c" * 64


class Labeled(NamedTuple):
    """An image with its label."""

    image: bytes
    boxes: Sequence[Box] = ()
    error: str | None = None
    size: tuple[int, int] = (30, 40)
    """Height and width, upright."""


def picture(
    size: tuple[int, int] = (30, 40), kind: str = "JPEG", *, orientation: int | None = None
) -> bytes:
    """A grey image whose upright top left quarter is red; stored turned as EXIF then says."""
    pixels = np.full((*size, 3), 128, np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = (220, 20, 20)
    exif = Image.Exif()
    if orientation is not None:
        assert orientation == 6, "shown after a quarter turn clockwise"
        pixels = np.rot90(pixels)
        exif[0x0112] = orientation
    out = io.BytesIO()
    lossless = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).save(out, kind, exif=exif, **lossless)
    return out.getvalue()


def write_set(root: Path, labeled: Mapping[str, Labeled], *, per_file: int = 4) -> dict[str, Any]:
    """Writes ``root/shards`` and ``root/labels``; returns what an ExportConfig says of them."""
    ids, files = list(labeled), []
    label_set.begin(str(root / "labels"), {})
    for start in range(0, len(ids), per_file):
        some = {image_id: labeled[image_id] for image_id in ids[start : start + per_file]}
        name = f"shard-{start // per_file:05d}.parquet"
        rows = [_shard_row(image_id, each) for image_id, each in some.items()]
        _write(root / "shards" / name, rows, schema.SHARD)
        rows = [_label_row(image_id, name, each) for image_id, each in some.items()]
        size_bytes = _write(root / "labels" / name, rows, schema.LABELS)
        num_errors = sum(each.error is not None for each in some.values())
        files.append(LabelFile(name, len(rows), num_errors, size_bytes, sha256="e" * 64))
    label_set.seal(str(root / "labels"), {}, files)
    return {"labels": (str(root / "labels"),), "images": (str(root / "shards"),)}


def _write(path: Path, rows: list[dict[str, Any]], arrow_schema: pa.Schema) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, arrow_schema), path, row_group_size=3)
    return path.stat().st_size


def _shard_row(image_id: str, labeled: Labeled) -> dict[str, Any]:
    height, width = labeled.size
    return {"image_id": image_id, "image": labeled.image, "width": width, "height": height}


def _label_row(image_id: str, shard: str, labeled: Labeled) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": image_id,
        "shard": shard,
        "width": labeled.size[1],
        "height": labeled.size[0],
        "checkpoint_sha256": CHECKPOINT,
        "config_sha256": "d" * 64,
        "package_version": "0",
        "error": labeled.error,
    }
    if labeled.error is not None:
        return row
    names = ("x0", "y0", "x1", "y1", "score")
    return row | {
        "pseudo_boxes": [dict(zip(names, box, strict=True)) for box in labeled.boxes],
        "foreground_fraction": 0.25,
        "confidence": 0.5,
        "threshold": 0.4,
        "threshold_source": "otsu",
        "polarity": "foreground",
        "polarity_margin": 0.3,
        "activation_map": images.encode_png16(_map(labeled)),
    }


def _map(labeled: Labeled) -> np.ndarray:
    """What would give the boxes: bright inside them, at an eighth of the usual size."""
    full = np.zeros(labeled.size, np.float32)
    for x0, y0, x1, y1, _ in labeled.boxes:
        full[y0:y1, x0:x1] = 0.9
    return cv2.resize(full, (28, 28), interpolation=cv2.INTER_AREA)
