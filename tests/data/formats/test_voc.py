"""VOC in miniature, and its XML, which ImageNet's boxes share."""

from pathlib import Path

import pytest

from c2am_dist.data.formats import Blob
from c2am_dist.data.formats.pascal import parse_xml
from c2am_dist.method.label_maps import VOC
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


PNG = image_bytes(kind="PNG", mode="P")
NAMES = ("2007_000032", "2007_000039", "2008_000002")


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    """VOC 2012 with the masks of SBD: one image is VOC's own, two are SBD's."""
    ids, sets = "\n".join(NAMES), "ImageSets/Segmentation"
    files = {f"JPEGImages/{name}.jpg": JPEG for name in NAMES}
    files |= {f"SegmentationClassAug/{name}.png": PNG for name in NAMES}
    files |= {f"SegmentationClass/{NAMES[0]}.png": PNG}
    files |= {f"{sets}/{name}.txt": f"{NAMES[0]}\n" for name in ("train", "val", "trainval")}
    return lay_out(tmp_path, {**files, f"{sets}/train_aug.txt": ids})


def masks_of(root: Path, split: str) -> list[str | None]:
    """Each image's mask below the root."""
    masks = [item.mask for item in listing(root, "voc", split=split).values()]
    assert all(mask is None or isinstance(mask, Blob) for mask in masks)
    return [mask and mask.uri.removeprefix(f"{root}/") for mask in masks]  # type: ignore


def test_train_aug_takes_its_own_masks_and_others_take_voc_s(sbd: Path):
    augmented = [f"SegmentationClassAug/{name}.png" for name in NAMES]
    assert masks_of(sbd, "train_aug") == augmented
    assert masks_of(sbd, "Segmentation/train_aug") == augmented
    for split in ("train", "val", "trainval"):
        assert masks_of(sbd, split) == [f"SegmentationClass/{NAMES[0]}.png"]
    items = listing(sbd, "voc")
    assert [str(item.mask.uri).split("/")[-2] for item in items.values()] == [  # type: ignore
        "SegmentationClass",
        "SegmentationClassAug",
        "SegmentationClassAug",
    ]
    assert all(item.mask_labels is VOC for item in items.values())


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("folder", ["SegmentationClassAug", "SegmentationClass"])
def test_lists_may_hold_paths_of_image_and_mask(sbd: Path, slash: str, folder: str):
    line = f"{slash}JPEGImages/{NAMES[0]}.jpg {slash}{folder}/{NAMES[0]}.png\n"
    lay_out(sbd, {"ImageSets/Segmentation/paths.txt": line})
    assert list(listing(sbd, "voc", split="paths")) == [NAMES[0]]
    assert masks_of(sbd, "paths") == [f"{folder}/{NAMES[0]}.png"]


def test_without_the_augmented_folder_masks_are_voc_s(sbd: Path):
    for name in NAMES:
        (sbd / f"SegmentationClassAug/{name}.png").unlink()
    assert masks_of(sbd, "train_aug") == [f"SegmentationClass/{NAMES[0]}.png", None, None]


def test_a_mask_that_a_list_names_and_is_not_there_is_kept(sbd: Path):
    (sbd / f"SegmentationClassAug/{NAMES[1]}.png").unlink()
    line = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n".format(NAMES[1])
    lay_out(sbd, {"ImageSets/Segmentation/paths.txt": line})
    assert masks_of(sbd, "paths") == [f"SegmentationClassAug/{NAMES[1]}.png"]
    outside = f"/JPEGImages/{NAMES[1]}.jpg /SegmentationClassAug/../../secret.png\n"
    lay_out(sbd, {"ImageSets/Segmentation/paths.txt": outside})
    assert masks_of(sbd, "paths") == [f"SegmentationClassAug/{NAMES[1]}.png"]


def test_a_folder_may_say_what_its_masks_hold(sbd: Path):
    lay_out(sbd, {"classes.txt": "cat\ndog\n"})
    (labels,) = {item.mask_labels for item in listing(sbd, "voc").values()}
    assert labels and labels.names == ("background", "cat", "dog")
    lay_out(sbd, {"classes.txt": "cat\ncat\n"})
    with pytest.raises(ValueError, match=r"classes.txt: not a label map: line 2: class 'cat'"):
        listing(sbd, "voc")


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
