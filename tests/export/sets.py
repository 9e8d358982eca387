"""Labels to export, and what an export holds."""

import json
from pathlib import Path
from typing import Any

from c2am_dist.config import ExportConfig
from c2am_dist.export import ExportReport, export
from tests.labeled import Box, Labeled, picture

JPEG = picture()
FORMATS = ("coco", "yolo", "voc", "label-studio", "fiftyone", "webdataset", "masks")


def scored(*scores: float) -> Labeled:
    """An image with boxes of these scores, side by side."""
    boxes: list[Box] = [(5 * i, 2, 5 * i + 4, 9, score) for i, score in enumerate(scores)]
    return Labeled(JPEG, boxes)


SET = {
    "one": scored(0.9),
    "two": scored(0.8, 0.95),
    "none": Labeled(JPEG),
    "weak": scored(0.1, 0.2, 0.3),
    "broken": Labeled(b"", error="empty file"),
}


def run(inputs: dict[str, Any], output: Path, **options: Any) -> ExportReport:
    return export(ExportConfig(**(inputs | {"output": str(output)} | options)))


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def kept(output: Path) -> dict[str, list[float]]:
    """The scores of each image of a COCO export."""
    content = json.loads((output / "annotations/instances_train.json").read_bytes())
    scores: dict[int, list[float]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        scores[annotation["image_id"]].append(round(annotation["score"], 3))
    return {image["image_id"]: scores[image["id"]] for image in content["images"]}
