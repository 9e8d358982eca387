"""Label sets of background cues, for what learns them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema
from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile
from c2am_dist.method import images

CueOf = Callable[[str], np.ndarray | None]
"""The cue of an image_id in [0, 1]; None for an error instead."""


def write_cues(
    shards: Path,
    output: Path,
    cue_of: CueOf,
    *,
    names: Sequence[str] | None = None,
    row_group_size: int = 3,
) -> str:
    """A finished label set of all shards below a folder, or of those named; its URI."""
    label_set.begin(str(output), {})
    files = []
    for name in names or sorted(str(p.relative_to(shards)) for p in shards.rglob("*.parquet")):
        ids = pq.read_table(shards / name, columns=["image_id"])["image_id"].to_pylist()
        rows = [_row(image_id, Path(name).name, cue_of(image_id)) for image_id in ids]
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows, schema.LABELS)
        pq.write_table(table, path, row_group_size=row_group_size)
        data, num_errors = path.read_bytes(), sum(row["error"] is not None for row in rows)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(LabelFile(name, len(rows), num_errors, len(data), sha256))
    label_set.seal(str(output), {}, files)
    return str(output)


def _row(image_id: str, shard: str, cue: np.ndarray | None) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "shard": shard,
        "background_cue": None if cue is None else images.encode_png8(cue),
        "checkpoint_sha256": "c" * 64,
        "config_sha256": "d" * 64,
        "package_version": "0",
        "error": "unreadable" if cue is None else None,
    }
