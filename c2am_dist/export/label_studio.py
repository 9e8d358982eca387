"""Label Studio: tasks with predictions, for people to correct."""

import json
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from typing import Any

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Box, Sample

_LOCAL_FILES = "/data/local-files/?d=images/"
"""Where Label Studio serves files from, below its LOCAL_FILES_DOCUMENT_ROOT."""


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``tasks.json``, the labeling setup ``label_config.xml`` and ``images``.

    A task holds one prediction with a rectangle a box, in percent of the image; its score is the
    best box's. A task without boxes has no prediction: a person is to look at it.
    """
    prefix = config.image_prefix
    if prefix is None:
        prefix = f"{folder.uri}/images/" if "://" in folder.uri else _LOCAL_FILES
    with folder.create("tasks.json") as stream:
        for number, sample in enumerate(samples):
            if sample.picture is not None:
                folder.put(f"images/{sample.file_name}", sample.picture.data)
            task = _task(sample, prefix, config.category_name)
            stream.write((b",\n" if number else b"[\n") + json.dumps(task).encode())
        stream.write(b"\n]\n")
    folder.put("label_config.xml", _label_config(config.category_name))


def _task(sample: Sample, prefix: str, category: str) -> dict[str, Any]:
    # In a bucket's URI, names stand as they are; in a URL they are quoted.
    is_bucket = prefix.startswith(("s3://", "gs://"))
    name = sample.file_name if is_bucket else urllib.parse.quote(sample.file_name)
    prediction = {
        "model_version": f"c2am-dist {__version__} {sample.checkpoint_sha256[:12]}",
        "score": max((box.score for box in sample.boxes), default=0.0),
        "result": [
            _rectangle(f"box{number}", box, sample.size, category)
            for number, box in enumerate(sample.boxes)
        ],
    }
    return {
        "data": {"image": prefix + name, "image_id": sample.image_id},
        "predictions": [prediction] if sample.boxes else [],
    }


def _rectangle(key: str, box: Box, size: tuple[int, int], category: str) -> dict[str, Any]:
    height, width = size
    return {
        "id": key,
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": box.score,
        "value": {
            "x": 100 * box.x0 / width,
            "y": 100 * box.y0 / height,
            "width": 100 * (box.x1 - box.x0) / width,
            "height": 100 * (box.y1 - box.y0) / height,
            "rotation": 0,
            "rectanglelabels": [category],
        },
    }


def _label_config(category: str) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    ElementTree.SubElement(labels, "Label", value=category)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"
