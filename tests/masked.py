"""Small sets of pseudo masks with the shards they are of, for what reads pseudo masks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema
from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile
from c2am_dist.method import label_maps
from c2am_dist.method.label_maps import LabelMap, encode_mask
from tests.labeled import picture

MAPS, CUES = "a" * 64, "b" * 64


class Masked(NamedTuple):
    """An image with its pseudo mask."""

    image: bytes
    mask: np.ndarray
    """Ids of the label map."""
    truth: np.ndarray | None = None
    """The data set's own ids, as the shards hold them."""
    error: str | None = None


def blobs(size: tuple[int, int], ids: tuple[int, ...], seed: int) -> np.ndarray:
    """A mask of a few overlapping rectangles and some lone pixels of these ids."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for class_id in ids:
        y, x = (int(rng.integers(0, side)) for side in size)
        mask[y : y + int(rng.integers(1, 40)), x : x + int(rng.integers(1, 40))] = class_id
        mask[int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))] = class_id
    return mask


def shape(size: tuple[int, int], class_id: int, *, moved: int = 0) -> np.ndarray:
    """A mask whose middle half of each side, moved right, is of a class."""
    mask = np.zeros(size, np.uint8)
    height, width = size
    left = width // 4 + moved
    mask[height // 4 : 3 * height // 4, left : left + width // 2] = class_id
    return mask


def masked(mask: np.ndarray, truth: np.ndarray | None = None) -> Masked:
    height, width = mask.shape
    return Masked(picture((height, width)), mask, truth)


def write_masks(
    root: Path,
    images: Mapping[str, Masked],
    *,
    label_map: LabelMap = label_maps.VOC,
    per_file: int = 4,
    name: str = "masks",
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes ``root/shards`` and the set ``root/NAME``; returns what an ExportConfig says of them.

    ``metadata`` changes that of the files.
    """
    about = {
        "c2am_dist.method": "cam+cue",
        "c2am_dist.label_map": json.dumps(label_map.names),
        "c2am_dist.published_ids": json.dumps(label_map.published_ids),
        **(metadata or {}),
    }
    kind = schema.PSEUDO_MASKS.with_metadata(about)
    ids, files = list(images), []
    label_set.begin(str(root / name), {})
    for start in range(0, len(ids), per_file):
        some = {image_id: images[image_id] for image_id in ids[start : start + per_file]}
        shard = f"shard-{start // per_file:05d}.parquet"
        rows = [_shard_row(image_id, each) for image_id, each in some.items()]
        _write(root / "shards" / shard, rows, schema.SHARD)
        rows = [_mask_row(image_id, shard, each, label_map) for image_id, each in some.items()]
        data = _write(root / name / shard, rows, kind)
        num_errors = sum(each.error is not None for each in some.values())
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(LabelFile(shard, len(rows), num_errors, len(data), sha256))
    label_set.seal(str(root / name), {}, files)
    return {"labels": (str(root / name),), "images": (str(root / "shards"),)}


def _write(path: Path, rows: list[dict[str, Any]], kind: pa.Schema) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, kind), path, row_group_size=3)
    return path.read_bytes()


def _shard_row(image_id: str, each: Masked) -> dict[str, Any]:
    height, width = each.mask.shape
    truth = None if each.truth is None else encode_mask(each.truth)
    return {
        "image_id": image_id,
        "image": each.image,
        "width": width,
        "height": height,
        "mask": truth,
        "split": "train",
    }


def _mask_row(image_id: str, shard: str, each: Masked, label_map: LabelMap) -> dict[str, Any]:
    height, width = each.mask.shape
    row: dict[str, Any] = {
        "image_id": image_id,
        "shard": shard,
        "width": width,
        "height": height,
        "background": "cue",
        "refinement": "none",
        "maps_sha256": MAPS,
        "cues_sha256": CUES,
        "config_sha256": "d" * 64,
        "package_version": "0",
        "error": each.error,
    }
    if each.error is not None:
        return row
    classes = [label_map.name_of(int(i)) for i in np.unique(each.mask) if i and i < len(label_map)]
    return row | {"pseudo_mask": encode_mask(each.mask), "classes": classes}
