"""COCO's instances in miniature."""

import json
from pathlib import Path

import pytest

from tests.data.formats.layouts import JPEG, boxes_of, listing
from tests.files import lay_out


def coco_json(**changes: object) -> str:
    content = {
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "width": 40, "height": 30},
            {"id": 25, "file_name": "000000000025.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 9, "category_id": 18, "bbox": [3.5, 4.2, 10.1, 5.0], "iscrowd": 0},
            {"image_id": 9, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"image_id": 9, "category_id": 1, "bbox": [35.0, 25.0, 10.0, 10.0]},
            {"image_id": 9, "category_id": 1, "bbox": [5, 5, 0, 8]},
        ],
    }
    return json.dumps({**content, **changes})


def test_coco_boxes_are_rounded_outward_clipped_and_without_crowds(tmp_path: Path):
    root = lay_out(
        tmp_path,
        {
            "val2017/000000000009.jpg": JPEG,
            "val2017/000000000025.jpg": JPEG,
            "annotations/instances_val2017.json": coco_json(),
        },
    )
    items = listing(root, "coco")
    assert boxes_of(items["000000000009"]) == (
        [[3, 4, 14, 10], [35, 25, 40, 30]],
        ["dog", "person"],
    )
    assert boxes_of(items["000000000025"]) == ([], [])
    assert {item.split for item in items.values()} == {"val2017"}
    assert list(listing(root, "coco", split="val2017")) == ["000000000009", "000000000025"]


def test_coco_without_its_json_or_with_another_is_refused(tmp_path: Path):
    root = lay_out(tmp_path, {"a.jpg": JPEG, "other.json": "[]", "half.json": '{"images": []'})
    with pytest.raises(FileNotFoundError, match="no instances_"):
        listing(root, "coco")
    for name in ("other.json", "half.json"):
        with pytest.raises(ValueError, match=f"{name}: not COCO's instances format"):
            listing(root, "coco", annotations=f"{root}/{name}")
