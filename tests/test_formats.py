"""Each format in miniature, laid out exactly as published: what its listing and boxes say."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import Boxes, BoxFile, Item, list_items
from c2am_dist.data.formats.items import pixel_boxes
from c2am_dist.data.formats.pascal import parse_xml
from c2am_dist.data.formats.yolo import parse_txt

XML = """<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}
</annotation>"""
OBJECT = """<object><name>{}</name><bndbox><xmax>{}</xmax><xmin>{}</xmin><ymin>{}</ymin>
<ymax>{}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def xml(*objects: tuple[str, int, int, int, int], size: tuple[int, int] = (40, 30)) -> str:
    rows = [OBJECT.format(name, x1, x0, y0, y1) for name, x0, y0, x1, y1 in objects]
    return XML.format(size=size, objects="".join(rows))


def image_bytes(size: tuple[int, int] = (40, 30), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 9).save(out, kind)
    return out.getvalue()


def lay_out(root: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def listing(root: str, kind: str, **options: str) -> dict[str, Item]:
    config = PrepareConfig(input=(root,), output="unused", format=kind, **options)  # type: ignore
    return {item.image_id: item for item in list_items(config)}


def boxes_of(item: Item, size: tuple[int, int] = (30, 40)):
    """The item's boxes and labels in pixels of an image of this (height, width)."""
    boxes = item.boxes
    if isinstance(boxes, BoxFile):
        boxes = boxes.parse(storage.read_bytes(boxes.blob.uri))
    assert boxes is not None
    return pixel_boxes(boxes, size)


JPEG = image_bytes()


# Folders


def test_class_subfolders_are_labels_and_paths_are_ids(tmp_path: Path):
    files = {"cat/in/a.JPG": JPEG, "dog/a.png": JPEG, "b.webp": JPEG, "notes.txt": ""}
    items = listing(lay_out(tmp_path, files), "folder", split="mine")
    assert {key: item.label for key, item in items.items()} == {
        "cat/in/a": "cat",
        "dog/a": "dog",
        "b": None,
    }
    assert items["b"].image.size_bytes == len(JPEG)
    assert {item.split for item in items.values()} == {"mine"}
    assert items["b"].boxes is None


def test_a_glob_and_a_list_name_images_too(tmp_path: Path):
    root = lay_out(tmp_path, {"x/1.jpg": JPEG, "x/2.jpg": JPEG, "x/3.gif": JPEG, "4.jpg": JPEG})
    config = PrepareConfig(input=(f"{root}/x/*.jpg", f"{root}/4.jpg"), output="unused")
    assert [item.image_id for item in list_items(config)] == ["1", "2", "4"]


def test_two_images_with_one_id_are_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path, {"a.jpg": JPEG, "a.png": JPEG})
    with pytest.raises(ValueError, match=r"duplicate image_id 'a'.*a\.jpg and .*a\.png"):
        listing(root, "folder")


def test_a_path_given_twice_is_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path, {"x/a.jpg": JPEG})
    with pytest.raises(ValueError, match=r"x/a\.jpg: named twice"):
        list_items(PrepareConfig(input=(root, f"{root}/x"), output="unused"))


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path / "bare", {"notes.txt": ""})
    with pytest.raises(FileNotFoundError, match=r"bare: no \.jpg"):
        listing(root, "folder")


# ImageNet


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    data, notes = "ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC"
    two = xml(("n01440764", 0, 2, 40, 20), ("n01440764", 30, 25, 12, 5))
    lay_out(
        tmp_path,
        {
            f"{data}/train/n01440764/n01440764_10026.JPEG": JPEG,
            f"{data}/train/n01440764/n01440764_7.JPEG": JPEG,
            f"{data}/val/ILSVRC2012_val_00000001.JPEG": JPEG,
            f"{data}/val/ILSVRC2012_val_00000002.JPEG": JPEG,
            f"{data}/test/ILSVRC2012_test_00000001.JPEG": JPEG,
            f"{notes}/train/n01440764/n01440764_10026.xml": two,
            f"{notes}/val/ILSVRC2012_val_00000001.xml": xml(("n02119789", 3, 4, 13, 24)),
            "ILSVRC/ImageSets/CLS-LOC/val.txt": "ILSVRC2012_val_00000001 1\n",
        },
    )
    return tmp_path


def test_imagenet_reads_the_kaggle_tree(kaggle: Path):
    solution = (
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n03995372 1 2 3 4 n03995372 5 6 9 9 \n"
        "ILSVRC2012_val_00000001,n02119789 3 4 13 24 \n"
    )
    items = listing(lay_out(kaggle, {"LOC_val_solution.csv": solution}), "imagenet")
    assert {key: (item.label, item.split) for key, item in items.items()} == {
        "n01440764_10026": ("n01440764", "train"),
        "n01440764_7": ("n01440764", "train"),
        "ILSVRC2012_val_00000001": ("n02119789", "val"),
        "ILSVRC2012_val_00000002": ("n03995372", "val"),
        "ILSVRC2012_test_00000001": (None, "test"),
    }
    # Several boxes, one with its corners swapped; the numbers are edges.
    assert boxes_of(items["n01440764_10026"])[0] == [[0, 2, 40, 20], [12, 5, 30, 25]]
    assert items["n01440764_7"].boxes is None  # no XML: unknown, not none
    assert boxes_of(items["ILSVRC2012_val_00000002"])[0] == [[1, 2, 3, 4], [5, 6, 9, 9]]


def test_imagenet_takes_one_split(kaggle: Path):
    assert set(listing(str(kaggle), "imagenet", split="train")) == {
        "n01440764_10026",
        "n01440764_7",
    }
    with pytest.raises(ValueError, match="split: the set has test, train, val, not 'dev'"):
        listing(str(kaggle), "imagenet", split="dev")


def test_imagenet_labels_validation_images_by_their_xml_alone(kaggle: Path):
    items = listing(str(kaggle), "imagenet", split="val")
    assert items["ILSVRC2012_val_00000001"].label == "n02119789"
    assert items["ILSVRC2012_val_00000002"].label is None


def test_imagenet_reads_the_development_kits_numbers(tmp_path: Path):
    data = {f"ILSVRC2012_val_0000000{n}.JPEG": JPEG for n in (1, 2)}
    kit = {
        "ILSVRC2012_validation_ground_truth.txt": "490\n361\n",
        "map_clsloc.txt": "n02119789 490 kit_fox\nn02100735 361 English_setter\n",
    }
    root = lay_out(tmp_path / "val", data)
    annotations = lay_out(tmp_path / "kit", kit) + "/ILSVRC2012_validation_ground_truth.txt"
    items = listing(root, "imagenet", annotations=annotations)
    assert [item.label for item in items.values()] == ["n02119789", "n02100735"]
    (tmp_path / "kit/map_clsloc.txt").unlink()
    with pytest.raises(ValueError, match=r"needs map_clsloc\.txt"):
        listing(root, "imagenet", annotations=annotations)


def test_imagenet_reads_class_folders_with_xml_elsewhere(tmp_path: Path):
    root = lay_out(tmp_path / "train", {"n01440764/n01440764_1.JPEG": JPEG})
    notes = lay_out(tmp_path / "xml", {"n01440764_1.xml": xml(("n01440764", 1, 2, 3, 4))})
    item = listing(root, "imagenet", annotations=notes)["n01440764_1"]
    assert (item.label, boxes_of(item)) == ("n01440764", ([[1, 2, 3, 4]], ["n01440764"]))


# VOC


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
    items = listing(str(voc), "voc")
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
    items = listing(str(voc / "VOCdevkit/VOC2012"), "voc", split=split)
    assert list(items) == ids
    assert {item.split for item in items.values()} == {split}


def test_voc_names_the_lists_that_exist(voc: Path):
    with pytest.raises(ValueError, match=r"split: no list 'dev'.*Main/train"):
        listing(str(voc), "voc", split="dev")


def test_voc_keeps_what_a_list_names_and_is_not_there(voc: Path):
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_3.jpg").unlink()
    item = listing(str(voc), "voc", split="val")["2007_3"]
    assert item.image.uri.endswith("VOCdevkit/VOC2012/JPEGImages/2007_3.jpg")


def test_raccoons_come_with_a_box_each(shared: Path):
    items = listing(str(shared / "data/raccoon-voc"), "voc")
    assert len(items) == 200
    assert boxes_of(items["raccoon-1"], (417, 650)) == ([[80, 87, 522, 408]], ["raccoon"])


def test_voc_without_its_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no image in a folder JPEGImages"):
        listing(lay_out(tmp_path, {"a.jpg": JPEG}), "voc")


# CUB


def test_cub_reads_its_tables(tmp_path: Path):
    laysan, parakeet = "002.Laysan_Albatross/L_1", "004.Groove_billed_Ani/G_2"
    root = lay_out(
        tmp_path,
        {
            "CUB_200_2011/images.txt": f"1 {laysan}.jpg\n2 {parakeet}.jpg\n",
            "CUB_200_2011/image_class_labels.txt": "1 2\n2 4\n",
            "CUB_200_2011/classes.txt": "2 002.Laysan_Albatross\n4 004.Groove_billed_Ani\n",
            "CUB_200_2011/train_test_split.txt": "1 1\n2 0\n",
            "CUB_200_2011/bounding_boxes.txt": "1 4.0 5.0 30.0 20.0\n2 0.0 0.0 40.0 30.0\n",
            f"CUB_200_2011/images/{laysan}.jpg": JPEG,
            f"CUB_200_2011/images/{parakeet}.jpg": JPEG,
            f"segmentations/{laysan}.png": image_bytes(kind="PNG", mode="L"),
            "CUB_200_2011/attributes/attributes.txt": "1 has_bill\n",
        },
    )
    items = listing(root, "cub")
    assert list(items) == [laysan, parakeet]
    assert boxes_of(items[laysan]) == ([[4, 5, 34, 25]], ["002.Laysan_Albatross"])
    assert items[laysan].label == "002.Laysan_Albatross"
    assert items[laysan].mask and items[laysan].is_agreement_mask
    assert [item.split for item in items.values()] == ["train", "test"]
    assert list(listing(root, "cub", split="test")) == [parakeet]


# COCO


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


# YOLO


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
        items = listing(str(root), "yolo", annotations=str(coco / "yolo_boxes"))
        assert len(items) == 100
        boxes, labels = boxes_of(items["000000000009"], (480, 640))
        # The bowl that COCO gives as x 1.08, y 187.69, width 611.59, height 285.84.
        assert boxes[0] == [1, 187, 613, 474]
        assert labels[:2] == ["bowl", "bowl"]
        assert items["000000000009"].mask is not None


def test_yolo_without_text_files_says_so(tmp_path: Path):
    root = lay_out(tmp_path, {"images/a.jpg": JPEG})
    with pytest.raises(FileNotFoundError, match="no text file for any image"):
        listing(root, "yolo")


def test_yolo_lines_that_make_no_sense_are_quoted():
    with pytest.raises(ValueError, match=r"'1 0\.5 0\.5'"):
        parse_txt(b"1 0.5 0.5", names={})
    with pytest.raises(ValueError, match="class 7 has no name among 1"):
        parse_txt(b"7 0.5 0.5 0.1 0.1", names={0: "cat"})


# WebDataset


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:  # type: ignore
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(path)


def test_webdataset_samples_are_members_of_one_name(tmp_path: Path):
    notes = {"label": "ignored", "boxes": [[1, 2, 3, 4]], "box_labels": ["dog"]}
    png = image_bytes(kind="PNG")
    tar(
        tmp_path / "set-0.tar",
        {
            "./x/0001.jpg": JPEG,
            "./x/0001.cls": b"7\n",
            "./x/0001.json": json.dumps(notes).encode(),
            "./x/0001.mask.png": image_bytes(kind="PNG", mode="L"),
        },
    )
    tar(tmp_path / "set-1.tar", {"0002.txt": b"a dog", "0002.png": png, "0003.webp": JPEG})
    items = listing(str(tmp_path), "webdataset")
    assert {key: item.label for key, item in items.items()} == {
        "x/0001": "7",
        "0002": "a dog",
        "0003": None,
    }
    assert boxes_of(items["x/0001"]) == ([[1, 2, 3, 4]], ["dog"])
    assert items["x/0001"].mask is not None
    blob = items["0002"].image
    assert blob.offset is not None
    assert storage.read_range(blob.uri, offset=blob.offset, size_bytes=blob.size_bytes) == png


def test_one_key_in_two_tars_is_refused_by_name(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / name, {"0001.jpg": JPEG})
    with pytest.raises(ValueError, match=r"duplicate image_id '0001'.*a\.tar and .*b\.tar"):
        listing(str(tmp_path), "webdataset")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.json": b"{}"}, "sample '1' holds no image"),
        ({"1.jpg": JPEG, "1.png": JPEG}, "sample '1' holds two images"),
        ({"1.jpg": JPEG, "1.json": b"{"}, "sample '1': unreadable annotation"),
    ],
)
def test_webdataset_samples_that_make_no_sense_are_named(
    tmp_path: Path, members: dict[str, bytes], message: str
):
    with pytest.raises(ValueError, match=message):
        listing(tar(tmp_path / "x.tar", members), "webdataset")


def test_compressed_and_broken_tars_are_named(tmp_path: Path):
    packed = tar(tmp_path / "packed.tar", {"1.jpg": JPEG}, mode="w:gz")
    whole = Path(tar(tmp_path / "whole.tar", {f"{n}.jpg": JPEG for n in range(40)}))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: len(JPEG) // 2 + 512])
    for uri in (packed, str(tmp_path / "cut.tar")):
        with pytest.raises(ValueError, match=r"(packed|cut)\.tar: not an uncompressed tar"):
            listing(uri, "webdataset")


# Any format


@pytest.mark.parametrize("kind", ["folder", "imagenet", "cub", "voc", "coco", "yolo", "webdataset"])
def test_a_missing_folder_is_named(tmp_path: Path, kind: str):
    with pytest.raises(FileNotFoundError, match="nowhere: no such"):
        listing(str(tmp_path / "nowhere"), kind)
    lay_out(tmp_path / "bare", {"notes.md": ""})
    with pytest.raises((FileNotFoundError, ValueError), match="bare: no "):
        listing(str(tmp_path / "bare"), kind)


# Boxes in pixels


def make(edges: tuple[float, float, float, float], **options: object) -> Boxes:
    return dataclasses.replace(Boxes((edges,), ("x",)), **options)  # type: ignore


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((2, 3, 9, 8), [[2, 3, 9, 8]]),
        ((2.5, 3.5, 8.5, 7.5), [[2, 3, 9, 8]]),
        ((1.999, 3.001, 9.001, 7.999), [[2, 3, 9, 8]]),  # a float's idea of whole pixels
        ((-5, -5, 400, 300), [[0, 0, 40, 30]]),
        ((40, 0, 50, 10), []),  # outside
        ((5, 5, 5, 10), []),  # no width
        ((5.5, 5, 5.5, 10), []),
    ],
)
def test_boxes_are_rounded_outward_and_clipped(edges, expected):
    assert pixel_boxes(make(edges), (30, 40)) == (expected, ["x"] * len(expected))


def test_boxes_scale_from_the_size_that_their_annotation_states():
    assert pixel_boxes(make((1, 2, 10, 15), frame=(20.0, 15.0)), (30, 40))[0] == [[2, 4, 20, 30]]


def test_boxes_of_the_unturned_image_are_refused():
    with pytest.raises(ValueError, match="annotated at 30x40, but upright the image is 40x30"):
        pixel_boxes(make((1, 2, 3, 4), frame=(30.0, 40.0)), (30, 40))


def test_a_box_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        pixel_boxes(make((1, 2, float("nan"), 4)), (30, 40))


@pytest.mark.parametrize("data", [b"", b"<annotation>", b"\xff\xd8\xff"])
def test_what_is_not_xml_is_refused(data: bytes):
    with pytest.raises(ValueError, match="not XML"):
        parse_xml(data, first_pixel=1)


def test_an_object_without_box_is_named():
    data = b"<annotation><object><name>dog</name></object></annotation>"
    with pytest.raises(ValueError, match="'dog' has no box"):
        parse_xml(data, first_pixel=1)
