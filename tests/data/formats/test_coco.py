"""COCO's instances in miniature."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.data.prepare import write_shard
from c2am_dist.data.shard_plan import plan
from c2am_dist.method import images
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


def test_classes_count_those_of_crowds_too(tmp_path: Path):
    root = lay_out(tmp_path, {"instances_x.json": coco_json(), "000000000009.jpg": JPEG})
    items = listing(root, "coco")
    assert items["000000000009"].classes == ("dog", "person")
    assert items["000000000025"].classes == ()
    crowd = {"image_id": 25, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    lay_out(tmp_path, {"instances_x.json": coco_json(annotations=[crowd])})
    item = listing(root, "coco")["000000000025"]
    assert boxes_of(item) == ([], []) and item.classes == ("person",)


@pytest.mark.parametrize(("year", "prefix"), [("2014", "COCO_{}_"), ("2017", "")])
def test_layouts_of_both_years_are_found_by_split(tmp_path: Path, year: str, prefix: str):
    for split, number in ((f"train{year}", 9), (f"val{year}", 25)):
        name = f"{prefix.format(split)}{number:012d}"
        image = {"id": number, "file_name": f"{name}.jpg", "width": 40, "height": 30}
        content = coco_json(images=[image], annotations=[])
        files = {f"{split}/{name}.jpg": JPEG, f"annotations/instances_{split}.json": content}
        lay_out(tmp_path, {**files, f"annotations/captions_{split}.json": "{}"})
    for split in ("val", f"val{year}"):
        (item,) = listing(tmp_path, "coco", split=split).values()
        assert item.image_id == f"{prefix.format(f'val{year}')}000000000025"
        assert item.image.uri == f"{tmp_path}/val{year}/{item.image_id}.jpg"
        assert item.split == split
    with pytest.raises(FileNotFoundError, match="several instances_"):
        listing(tmp_path, "coco")


def drawn(root: Path, output: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """Rows and errors of a shard with drawn masks, written without Ray."""
    config = PrepareConfig(input=(str(root),), output=str(output), format="coco", draw_masks=True)
    (shard,) = plan(config).shards
    errors = {error["image_id"]: error["error"] for error in write_shard(shard).errors}
    rows = pq.read_table(output / "shard-00000-of-00001.parquet").to_pylist()
    return {row["image_id"]: row for row in rows}, errors


def test_masks_are_drawn_from_the_annotations(tmp_path: Path):
    polygon = {
        "id": 1,
        "image_id": 9,
        "category_id": 18,
        "bbox": [2, 2, 8, 8],
        "area": 64,
        "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]],
    }
    crowd = {
        "id": 2,
        "image_id": 9,
        "category_id": 1,
        "bbox": [0, 0, 40, 30],
        "iscrowd": 1,
        "area": 1200,
        "segmentation": {"size": [30, 40], "counts": [0, 1200]},
    }
    content = coco_json(annotations=[polygon, crowd])
    files = {f"0000000000{name}.jpg": JPEG for name in ("09", "25")}
    root = lay_out(tmp_path / "set", {**files, "instances_val2017.json": content})
    rows, errors = drawn(root, tmp_path / "out")
    assert errors == {}
    mask = images.decode_mask(rows["000000000009"]["mask"])
    assert mask[5, 5] == 18 and mask[20, 30] == 1 and set(np.unique(mask)) == {1, 18}
    assert rows["000000000009"]["labels"] == ["dog", "person"]
    assert rows["000000000009"]["box_labels"] == ["dog"]
    assert not images.decode_mask(rows["000000000025"]["mask"]).any()
    assert rows["000000000025"]["labels"] == []


def test_an_image_with_a_broken_region_is_an_error_row(tmp_path: Path):
    broken = {
        "id": 77,
        "image_id": 9,
        "category_id": 18,
        "bbox": [2, 2, 8, 8],
        "segmentation": [[1, 2, 3]],
    }
    files = {f"0000000000{name}.jpg": JPEG for name in ("09", "25")}
    content = coco_json(annotations=[broken])
    root = lay_out(tmp_path / "set", {**files, "instances_val2017.json": content})
    rows, errors = drawn(root, tmp_path / "out")
    assert list(rows) == ["000000000025"]
    assert "mask: annotation 77: a polygon has x y of three points" in errors["000000000009"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "voc", "draw_masks": True}, "format must be coco with draw_masks, got 'voc'"),
        (
            {"format": "coco", "draw_masks": True, "masks": "m"},
            "masks must be unset with draw_masks",
        ),
    ],
)
def test_masks_are_drawn_of_coco_alone_and_instead_of_others(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**options)
