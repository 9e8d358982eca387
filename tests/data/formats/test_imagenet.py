"""ILSVRC2012 CLS-LOC in miniature, laid out as published."""

from pathlib import Path

import pytest

from tests.data.formats.layouts import JPEG, boxes_of, listing, xml
from tests.files import lay_out


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
    assert set(listing(kaggle, "imagenet", split="train")) == {
        "n01440764_10026",
        "n01440764_7",
    }
    with pytest.raises(ValueError, match="split: the set has test, train, val, not 'dev'"):
        listing(kaggle, "imagenet", split="dev")


def test_imagenet_labels_validation_images_by_their_xml_alone(kaggle: Path):
    items = listing(kaggle, "imagenet", split="val")
    assert items["ILSVRC2012_val_00000001"].label == "n02119789"
    assert items["ILSVRC2012_val_00000002"].label is None


def test_imagenet_reads_the_development_kits_numbers(tmp_path: Path):
    data = {f"ILSVRC2012_val_0000000{n}.JPEG": JPEG for n in (1, 2)}
    kit = {
        "ILSVRC2012_validation_ground_truth.txt": "490\n361\n",
        "map_clsloc.txt": "n02119789 490 kit_fox\nn02100735 361 English_setter\n",
    }
    root = lay_out(tmp_path / "val", data)
    kit_folder = lay_out(tmp_path / "kit", kit)
    annotations = f"{kit_folder}/ILSVRC2012_validation_ground_truth.txt"
    items = listing(root, "imagenet", annotations=annotations)
    assert [item.label for item in items.values()] == ["n02119789", "n02100735"]
    (kit_folder / "map_clsloc.txt").unlink()
    with pytest.raises(ValueError, match=r"needs map_clsloc\.txt"):
        listing(root, "imagenet", annotations=annotations)


def test_imagenet_reads_class_folders_with_xml_elsewhere(tmp_path: Path):
    root = lay_out(tmp_path / "train", {"n01440764/n01440764_1.JPEG": JPEG})
    notes = lay_out(tmp_path / "xml", {"n01440764_1.xml": xml(("n01440764", 1, 2, 3, 4))})
    item = listing(root, "imagenet", annotations=str(notes))["n01440764_1"]
    assert (item.label, boxes_of(item)) == ("n01440764", ([[1, 2, 3, 4]], ["n01440764"]))
