"""Images with class maps and background cues in miniature, as every source of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema
from c2am_dist.config import RefineConfig
from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile
from c2am_dist.method.images import encode_png8, encode_png16
from tests.images import encoded, noise

SIZE = (20, 30)
"""Height and width of every image."""
CHECKPOINT = {"class_maps": "a" * 64, "background_cue": "b" * 64}


@dataclasses.dataclass(kw_only=True)
class Scene:
    """An image, its classes, and what is said of it."""

    labels: Sequence[str] | None = None
    maps: Mapping[str, np.ndarray] | None = None
    cue: np.ndarray | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the row in a label set."""


def ramp(*, size: tuple[int, int] = SIZE, flip: bool = False) -> np.ndarray:
    """A map that goes from dark, on the left, to bright."""
    row = np.linspace(0, 1, size[1], dtype=np.float32)
    return np.tile(row[::-1] if flip else row, (size[0], 1))


def flat(value: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full(size, value, np.float32)


def write_shards(root: Path, files: Mapping[str, Mapping[str, Scene]], **columns: Any) -> str:
    """Shards below ``root/shards``; ``columns`` replaces what all rows hold."""
    for name, scenes in files.items():
        rows = [
            {
                "image_id": image_id,
                "image": encoded(noise(SIZE[::-1], seed=i)),
                "height": SIZE[0],
                "width": SIZE[1],
                "labels": None if scene.labels is None else sorted(scene.labels),
                **columns,
            }
            for i, (image_id, scene) in enumerate(scenes.items())
        ]
        _write(root / "shards" / name, pa.Table.from_pylist(rows, schema.SHARD))
    return str(root / "shards")


def write_labels(
    root: Path, files: Mapping[str, Mapping[str, Scene]], column: str, *, is_sealed: bool = True
) -> str:
    """A label set of the shards, with class maps or with cues."""
    folder = root / column
    label_set.begin(str(folder), {"column": column})
    written = []
    for name, scenes in files.items():
        rows = [_label_row(image_id, name, scene, column) for image_id, scene in scenes.items()]
        table = pa.Table.from_pylist(rows, schema.LABELS).replace_schema_metadata(
            {
                "c2am_dist.method": "sipe" if column == "class_maps" else "c2am",
                "c2am_dist.checkpoint_sha256": CHECKPOINT[column],
            }
        )
        size_bytes = _write(folder / name, table)
        written.append(LabelFile(name, len(rows), 0, size_bytes, sha256="e" * 64))
    if is_sealed:
        label_set.seal(str(folder), {"column": column}, written)
    return str(folder)


def _label_row(image_id: str, shard: str, scene: Scene, column: str) -> dict[str, Any]:
    row = dict.fromkeys(schema.LABELS.names) | {
        "image_id": image_id,
        "shard": Path(shard).name,
        "height": SIZE[0],
        "width": SIZE[1],
        "checkpoint_sha256": CHECKPOINT[column],
        "config_sha256": "d" * 64,
        "package_version": "0",
    }
    if column == "class_maps" and scene.maps is not None:
        row[column] = [
            {"class_name": name, "map": encode_png16(one)} for name, one in scene.maps.items()
        ]
    if column == "background_cue" and scene.cue is not None:
        row[column] = encode_png8(scene.cue)
    return row | scene.changes


def _write(path: Path, table: pa.Table) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path.stat().st_size


def write_npy(folder: Path, image_id: str, maps: Mapping[int, np.ndarray]) -> None:
    """A file as PSA writes it: classes from 0."""
    path = folder / f"{image_id}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, dict(maps), allow_pickle=True)  # type: ignore


def write_set(root: Path, files: Mapping[str, Mapping[str, Scene]], **changes: Any) -> RefineConfig:
    """Shards with label sets of maps and cues, and the job that joins them."""
    values = {
        "images": (write_shards(root, files),),
        "maps": (write_labels(root, files, "class_maps"),),
        "cues": (write_labels(root, files, "background_cue"),),
        "output": str(root / "masks"),
        "num_tasks": 2,
    }
    return RefineConfig(**values | changes)


def rows_of(output: str | Path) -> dict[str, dict[str, Any]]:
    """Every row, by image_id."""
    paths = sorted(Path(output).rglob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    found = {row["image_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found
