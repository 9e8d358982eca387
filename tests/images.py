"""Images for tests, and shards of them."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from c2am_dist import schema
from c2am_dist.data import synthetic


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture (width, height) that does not compress."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4, "CMYK": 4}[mode]
    shape = (size[1], size[0], channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write_shards(
    folder: Path,
    num_images: int,
    *,
    num_files: int = 2,
    row_group_size: int = 8,
    size_px: int = 64,
    broken: Mapping[int, bytes] | None = None,
) -> str:
    """Generated images as shards with labels, boxes and masks; ``broken`` replaces some bytes."""
    rows = []
    for index in range(num_images):
        sample = synthetic.draw_sample(0, index, size_px=size_px)
        encoded = simplejpeg.encode_jpeg(sample.image, quality=90)
        rows.append(
            {
                "image_id": f"image-{index:04d}",
                "image": (broken or {}).get(index, encoded),
                "width": sample.image.shape[1],
                "height": sample.image.shape[0],
                "label": synthetic.CLASSES[sample.label],
                "boxes": [list(synthetic.box_of(sample.mask))],
                "split": "train",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        table = pa.Table.from_pylist(rows[number::num_files], schema.SHARD)
        pq.write_table(table, folder / f"shard-{number:05d}.parquet", row_group_size=row_group_size)
    return str(folder)
