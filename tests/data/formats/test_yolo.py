"""YOLO's layouts in miniature."""

from pathlib import Path

import numpy as np
import pytest

from c2am_dist import storage
from c2am_dist.data.formats import Blob, BoxFile
from c2am_dist.data.formats.yolo import parse_txt
from c2am_dist.data.prepare import make_row
from c2am_dist.method import images
from c2am_dist.method.label_maps import COCO
from tests.data.formats.layouts import JPEG, boxes_of, image_bytes, listing
from tests.files import lay_out


@pytest.mark.parametrize("layout", ["images/{}.jpg", "train/images/{}.jpg", "images/train/{}.jpg"])
def test_yolo_finds_labels_beside_images(tmp_path: Path, layout: str):
    text = layout.replace("images", "labels").replace("jpg", "txt")
    mask = layout.replace("images", "masks").replace("jpg", "png")
    root = lay_out(
        tmp_path,
        {
            layout.format("a"): JPEG,
            layout.format("b"): JPEG,
            text.format("a"): "1 0.5 0.5 0.5 0.4\n0 0 0 1 0 1 0.5\n",
            mask.format("a"): image_bytes(kind="PNG", mode="L"),
            "data.yaml": "names: {0: cat, 1: dog}",
        },
    )
    a, b = listing(root, "yolo").values()
    assert boxes_of(a) == ([[10, 9, 30, 21], [0, 0, 40, 15]], ["dog", "cat"])
    assert boxes_of(b) == ([], [])  # no text file: no object
    assert a.split == ("train" if "train" in layout else None)
    assert a.mask is not None and b.mask is None


def test_yolo_boxes_and_names_may_lie_elsewhere(tmp_path: Path, shared: Path):
    coco = shared / "data/coco128"
    for root in (coco, coco / "images"):
        items = listing(root, "yolo", annotations=str(coco / "yolo_boxes"))
        assert len(items) == 100
        boxes, labels = boxes_of(items["000000000009"], (480, 640))
        # The bowl that COCO gives as x 1.08, y 187.69, width 611.59, height 285.84.
        assert boxes[0] == [1, 187, 613, 474]
        assert labels[:2] == ["bowl", "bowl"]
        assert items["000000000009"].mask is not None


def test_yolo_takes_masks_of_coco_s_ids_from_a_folder(shared: Path):
    coco = shared / "data/coco128"
    options = {"annotations": str(coco / "yolo_boxes"), "masks": str(coco / "masks")}
    items = listing(coco, "yolo", **options)
    assert len(items) == 100
    for image_id, item in items.items():
        assert isinstance(item.mask, Blob)
        assert item.mask.uri == f"{coco}/masks/{image_id}.png"
    item = items["000000000009"]
    assert isinstance(item.boxes, BoxFile) and isinstance(item.mask, Blob)
    files = [storage.read_bytes(blob.uri) for blob in (item.image, item.mask, item.boxes.blob)]
    row = make_row(item, *files)
    assert row["labels"] == ["bowl", "broccoli", "orange"]
    assert row["mask"] == files[1]
    published = set(np.unique(images.decode_mask(row["mask"])).tolist())
    assert {COCO.published_ids[COCO.id_of(name)] for name in row["labels"]} <= published


def test_yolo_without_text_files_says_so(tmp_path: Path):
    root = lay_out(tmp_path, {"images/a.jpg": JPEG})
    with pytest.raises(FileNotFoundError, match="no text file for any image"):
        listing(root, "yolo")


def test_yolo_lines_that_make_no_sense_are_quoted():
    with pytest.raises(ValueError, match=r"'1 0\.5 0\.5'"):
        parse_txt(b"1 0.5 0.5", names={})
    with pytest.raises(ValueError, match="class 7 has no name among 1"):
        parse_txt(b"7 0.5 0.5 0.1 0.1", names={0: "cat"})
