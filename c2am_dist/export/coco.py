"""COCO's instances JSON beside a folder of images, in COCO's layout and in FiftyOne's.

FiftyOne reads several layouts of its own. ``COCODetectionDataset`` is taken because it is
documented and stable, keeps scores as confidences, and other tools read it as well; its
``FiftyOneDataset`` mirrors the fields of a FiftyOne version's database.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Sample


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``annotations/instances_SPLIT.json`` and the images to ``images``.

    Boxes are x, y, width and height in whole pixels, from 0. Each annotation has its ``score``
    beside COCO's own fields, and each image its ``image_id``; ``file_name`` is the path below the
    folder of images. An image without boxes has no annotation. There are no polygons.
    """
    _write(samples, folder, config, f"annotations/instances_{config.split}.json", "images")


def write_fiftyone(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``labels.json`` and the images to ``data``: FiftyOne's COCODetectionDataset."""
    _write(samples, folder, config, "labels.json", "data")


def _write(
    samples: Iterable[Sample], folder: Folder, config: ExportConfig, path: str, image_folder: str
) -> None:
    checkpoints: set[str] = set()
    num_boxes = 0
    # The file lists all images before any annotation, so these wait on disk.
    with tempfile.TemporaryFile() as annotations, folder.create(path) as stream:
        stream.write(b'{"images": [')
        for number, sample in enumerate(samples, start=1):
            if sample.picture is not None:
                folder.put(f"{image_folder}/{sample.file_name}", sample.picture.data)
            stream.write(_line(_image(sample, number), is_first=number == 1))
            for annotation in _annotations(sample, number, num_boxes + 1):
                annotations.write(_line(annotation, is_first=num_boxes == 0))
                num_boxes += 1
            checkpoints.add(sample.checkpoint_sha256)
        stream.write(b'\n], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream, 2**20)
        rest = {
            "categories": [{"id": 1, "name": config.category_name, "supercategory": ""}],
            "licenses": [],
            "info": {
                "description": "pseudo boxes, not annotations",
                "version": f"c2am-dist {__version__}",
                "checkpoint_sha256": sorted(checkpoints),
            },
        }
        stream.write(b"\n], " + json.dumps(rest)[1:].encode() + b"\n")


def _line(entry: dict[str, Any], *, is_first: bool) -> bytes:
    return (b"\n" if is_first else b",\n") + json.dumps(entry).encode()


def _image(sample: Sample, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": sample.file_name,
        "height": sample.size[0],
        "width": sample.size[1],
        "image_id": sample.image_id,
    }


def _annotations(sample: Sample, image: int, first: int) -> Iterable[dict[str, Any]]:
    for number, box in enumerate(sample.boxes, start=first):
        width, height = box.x1 - box.x0, box.y1 - box.y0
        yield {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": [box.x0, box.y0, width, height],
            "area": width * height,
            "segmentation": [],
            "iscrowd": 0,
            "score": box.score,
        }
