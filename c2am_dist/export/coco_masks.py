"""COCO's instances JSON of pseudo masks."""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export import run_length
from c2am_dist.export.coco import write_instances
from c2am_dist.export.folder import Folder
from c2am_dist.export.mask_samples import MaskSample
from c2am_dist.method.label_maps import LabelMap


def write(
    samples: Iterable[MaskSample], folder: Folder, config: ExportConfig, label_map: LabelMap
) -> None:
    """Writes ``annotations/instances_SPLIT.json`` and the images to ``images``.

    Masks do not tell objects of a class apart: an annotation is a connected part of a class, its
    corners counting as connected, as compressed run lengths. Category ids are the data set's own.
    An image without classes has no annotation.
    """
    maps, cues = set[str](), set[str]()

    def describe(sample: MaskSample) -> Iterator[dict[str, Any]]:
        maps.add(sample.maps_sha256)
        if sample.cues_sha256 is not None:
            cues.add(sample.cues_sha256)
        return _annotations(sample.mask, label_map)

    def rest() -> dict[str, Any]:
        named = list(zip(label_map.published_ids, label_map.names, strict=True))[1:]
        return {
            "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in named],
            "licenses": [],
            "info": {
                "description": "pseudo masks, not annotations",
                "version": f"c2am-dist {__version__}",
                "maps_sha256": sorted(maps),
                "cues_sha256": sorted(cues),
            },
        }

    path = f"annotations/instances_{config.split}.json"
    write_instances(samples, folder, path, "images", describe=describe, rest=rest)


def _annotations(mask: np.ndarray, label_map: LabelMap) -> Iterator[dict[str, Any]]:
    """By class, and within it in the order of OpenCV's components."""
    for class_id in map(int, np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1):
        is_class = (mask == class_id).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(is_class, connectivity=8)
        for number, (x, y, width, height, area) in enumerate(stats[1:].tolist(), start=1):
            inside = parts[y : y + height, x : x + width] == number
            counts = run_length.encode(inside, y, x, mask.shape)
            yield {
                "category_id": label_map.published_ids[class_id],
                "bbox": [x, y, width, height],
                "area": area,
                "segmentation": {"size": list(mask.shape), "counts": counts},
                "iscrowd": 0,
            }
