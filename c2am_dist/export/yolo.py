"""YOLO's text files of relative boxes beside the images."""

from collections.abc import Iterable

import yaml

from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Box, Sample

_DATA = """\
# Pseudo boxes, not annotations. There is no held-out part: let val name images that you trust.
train: images/{split}
val: images/{split}
"""


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``images/SPLIT``, ``labels/SPLIT`` and ``data.yaml``.

    A line is ``0 centre_x centre_y width height`` in shares of the image, with eight decimals:
    turned back into pixels, an edge is off by less than a thousandth of one in images of up to
    65,535 pixels a side. An image without boxes has an empty file.
    """
    for sample in samples:
        if sample.picture is not None:
            folder.put(f"images/{config.split}/{sample.file_name}", sample.picture.data)
        lines = "".join(_line(box, *sample.size) for box in sample.boxes)
        folder.put(f"labels/{config.split}/{sample.name}.txt", lines.encode())
    classes = yaml.safe_dump({"names": {0: config.category_name}}, allow_unicode=True)
    folder.put("data.yaml", (_DATA.format(split=config.split) + classes).encode())


def _line(box: Box, height: int, width: int) -> str:
    values = (
        (box.x0 + box.x1) / 2 / width,
        (box.y0 + box.y1) / 2 / height,
        (box.x1 - box.x0) / width,
        (box.y1 - box.y0) / height,
    )
    return "0 " + " ".join(f"{value:.8f}" for value in values) + "\n"
