"""COCO's instances JSON beside a folder of images, in COCO's layout and in FiftyOne's: of boxes.

FiftyOne reads several layouts of its own. ``COCODetectionDataset`` is taken because it is
documented and stable, keeps scores as confidences, and other tools read it as well; its
``FiftyOneDataset`` mirrors the fields of a FiftyOne version's database.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.mask_samples import MaskSample
from c2am_dist.export.samples import Box, Sample

AnySample = TypeVar("AnySample", Sample, MaskSample)


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

    def describe(sample: Sample) -> Iterable[dict[str, Any]]:
        checkpoints.add(sample.checkpoint_sha256)
        return map(_annotation, sample.boxes)

    def rest() -> dict[str, Any]:
        return {
            "categories": [{"id": 1, "name": config.category_name, "supercategory": ""}],
            "licenses": [],
            "info": {
                "description": "pseudo boxes, not annotations",
                "version": f"c2am-dist {__version__}",
                "checkpoint_sha256": sorted(checkpoints),
            },
        }

    write_instances(samples, folder, path, image_folder, describe=describe, rest=rest)


def write_instances(
    samples: Iterable[AnySample],
    folder: Folder,
    path: str,
    image_folder: str,
    *,
    describe: Callable[[AnySample], Iterable[dict[str, Any]]],
    rest: Callable[[], dict[str, Any]],
) -> None:
    """Writes images and their JSON, which grows with them.

    Args:
        samples: of boxes or of masks.
        folder: where.
        path: of the JSON below it.
        image_folder: below it.
        describe: the annotations of a sample, without ``id`` and ``image_id``, which are numbers
            from 1.
        rest: what the JSON holds beside images and annotations; asked for at the end.
    """
    num_annotations = 0
    # The file lists all images before any annotation, so these wait on disk.
    with tempfile.TemporaryFile() as annotations, folder.create(path) as stream:
        stream.write(b'{"images": [')
        for number, sample in enumerate(samples, start=1):
            if sample.picture is not None:
                folder.put(f"{image_folder}/{sample.file_name}", sample.picture.data)
            stream.write(_line(_image(sample, number), is_first=number == 1))
            for fields in describe(sample):
                annotation = {"id": num_annotations + 1, "image_id": number} | fields
                annotations.write(_line(annotation, is_first=num_annotations == 0))
                num_annotations += 1
        stream.write(b'\n], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream, 2**20)
        stream.write(b"\n], " + json.dumps(rest())[1:].encode() + b"\n")


def _line(entry: dict[str, Any], *, is_first: bool) -> bytes:
    return (b"\n" if is_first else b",\n") + json.dumps(entry).encode()


def _image(sample: Sample | MaskSample, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": sample.file_name,
        "height": sample.size[0],
        "width": sample.size[1],
        "image_id": sample.image_id,
    }


def _annotation(box: Box) -> dict[str, Any]:
    width, height = box.x1 - box.x0, box.y1 - box.y0
    return {
        "category_id": 1,
        "bbox": [box.x0, box.y0, width, height],
        "area": width * height,
        "segmentation": [],
        "iscrowd": 0,
        "score": box.score,
    }
