"""VOC in miniature, and its XML, which ImageNet's boxes share."""

from pathlib import Path

import pytest

from c2am_dist.data.formats.pascal import parse_xml
from tests.data.formats.layouts import JPEG, boxes_of, image_bytes, listing, xml
from tests.files import lay_out


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    lay_out(
        tmp_path / "VOCdevkit/VOC2012",
        {
            "JPEGImages/2007_1.jpg": JPEG,
            "JPEGImages/2007_2.jpg": JPEG,
            "JPEGImages/2007_3.jpg": JPEG,
            "Annotations/2007_1.xml": xml(("dog", 1, 1, 40, 30), ("cat", 11, 12, 20, 22)),
            "Annotations/2007_2.xml": xml(),
            "SegmentationClass/2007_1.png": image_bytes(kind="PNG", mode="P"),
            "ImageSets/Main/train.txt": "2007_1\n2007_2\n",
            "ImageSets/Main/val.txt": "2007_3\n",
            "ImageSets/Main/dog_train.txt": "2007_1 1\n2007_2 -1\n",
            "ImageSets/Segmentation/train.txt": "2007_1\n",
        },
    )
    return tmp_path


def test_voc_boxes_count_from_one_and_include_their_last_pixel(voc: Path):
    items = listing(voc, "voc")
    assert boxes_of(items["2007_1"]) == ([[0, 0, 40, 30], [10, 11, 20, 22]], ["dog", "cat"])
    assert boxes_of(items["2007_2"]) == ([], [])  # known to hold none
    assert items["2007_3"].boxes is None  # unknown
    assert items["2007_1"].mask and not items["2007_2"].mask
    assert [item.split for item in items.values()] == ["train", "train", "val"]


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["2007_1", "2007_2"]),
        ("Segmentation/train", ["2007_1"]),
        ("dog_train", ["2007_1"]),
    ],
)
def test_voc_splits_are_its_lists(voc: Path, split: str, ids: list[str]):
    items = listing(voc / "VOCdevkit/VOC2012", "voc", split=split)
    assert list(items) == ids
    assert {item.split for item in items.values()} == {split}


def test_voc_names_the_lists_that_exist(voc: Path):
    with pytest.raises(ValueError, match=r"split: no list 'dev'.*Main/train"):
        listing(voc, "voc", split="dev")


def test_voc_keeps_what_a_list_names_and_is_not_there(voc: Path):
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_3.jpg").unlink()
    item = listing(voc, "voc", split="val")["2007_3"]
    assert item.image.uri.endswith("VOCdevkit/VOC2012/JPEGImages/2007_3.jpg")


def test_voc_without_its_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no image in a folder JPEGImages"):
        listing(lay_out(tmp_path, {"a.jpg": JPEG}), "voc")


def test_raccoons_come_with_a_box_each(shared: Path):
    items = listing(shared / "data/raccoon-voc", "voc")
    assert len(items) == 200
    assert boxes_of(items["raccoon-1"], (417, 650)) == ([[80, 87, 522, 408]], ["raccoon"])


@pytest.mark.parametrize("data", [b"", b"<annotation>", b"\xff\xd8\xff"])
def test_what_is_not_xml_is_refused(data: bytes):
    with pytest.raises(ValueError, match="not XML"):
        parse_xml(data, first_pixel=1)


def test_an_object_without_box_is_named():
    data = b"<annotation><object><name>dog</name></object></annotation>"
    with pytest.raises(ValueError, match="'dog' has no box"):
        parse_xml(data, first_pixel=1)
