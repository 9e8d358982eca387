"""Annotations, images and listings for the tests of the formats."""

import io
from pathlib import Path

from PIL import Image

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import BoxFile, Item, list_items
from c2am_dist.data.formats.items import pixel_boxes

XML = """<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}
</annotation>"""
OBJECT = """<object><name>{}</name><bndbox><xmax>{}</xmax><xmin>{}</xmin><ymin>{}</ymin>
<ymax>{}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def xml(*objects: tuple[str, int, int, int, int], size: tuple[int, int] = (40, 30)) -> str:
    rows = [OBJECT.format(name, x1, x0, y0, y1) for name, x0, y0, x1, y1 in objects]
    return XML.format(size=size, objects="".join(rows))


def image_bytes(size: tuple[int, int] = (40, 30), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 9).save(out, kind)
    return out.getvalue()


def listing(root: Path | str, kind: str, **options: str) -> dict[str, Item]:
    """The items of a data set of that format, by image_id."""
    config = PrepareConfig(input=(str(root),), output="unused", format=kind, **options)  # type: ignore
    return {item.image_id: item for item in list_items(config)}


def boxes_of(item: Item, size: tuple[int, int] = (30, 40)):
    """The item's boxes and labels in pixels of an image of this (height, width)."""
    boxes = item.boxes
    if isinstance(boxes, BoxFile):
        boxes = boxes.parse(storage.read_bytes(boxes.blob.uri))
    assert boxes is not None
    return pixel_boxes(boxes, size)


JPEG = image_bytes()
