"""Small image sets, the jobs that label them, and what these wrote."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist.config import LabelConfig

BAD = {"cut": "unreadable JPEG", "text": "not an image", "empty": "empty file"}


def photo(seed: int, size: tuple[int, int] = (48, 80)) -> bytes:
    """A smooth random pattern with one bright blob, height and width as given, as a JPEG."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 120, (6, 8, 3), np.uint8), size[::-1])
    centre = (int(rng.integers(15, size[1] - 15)), int(rng.integers(15, size[0] - 15)))
    cv2.circle(image, centre, 10, (250, 230, 60), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def write_shard(path: Path, images: Mapping[str, bytes], row_group_size: int = 4) -> Path:
    """Ids and images alone, which is all that labeling needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image_id": pa.array(list(images), pa.string()),
        "image": pa.array(list(images.values()), pa.binary()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def make_config(trained: Path, image_set: Path, output: Path, **changes: object) -> LabelConfig:
    config = LabelConfig(
        checkpoint=str(trained),
        input=(str(image_set),),
        output=str(output),
        batch_size=4,
        num_actors=1,
    )
    return dataclasses.replace(config, **changes)  # type: ignore


def read_labels(output: Path) -> pa.Table:
    files = sorted(output.rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
