"""What the methods refuse before anything is written, and that it names the culprit."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from c2am_dist.config import ClassifyConfig
from c2am_dist.labeling import models
from c2am_dist.labeling.classify import classify
from c2am_dist.labeling.descriptors import plan_units
from c2am_dist.labeling.job import label
from tests.labeling.methods import (
    random_classifier,
    random_regressor,
    random_sipe,
    save,
    write_labeled,
    write_listed,
)
from tests.labeling.sets import make_config, photo, write_shard


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "classifier", random_classifier(), "classifier")
    save(folder / "cam", random_classifier(), "cam")
    save(folder / "sipe", random_sipe(), "sipe")
    save(folder / "psol", random_regressor(), "psol", output_stride=32)
    save(folder / "wrong", random_regressor(), "classifier")
    (folder / "c2am").symlink_to(trained)
    plain = random_classifier()
    torch.save(plain.encoder.state_dict(), folder / "bare.pth")
    linear = {f"fc.{key}": value for key, value in plain.fc.state_dict().items()}
    whole = plain.encoder.state_dict() | linear
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.items()}}, folder / "whole.pth")
    (folder / "two.txt").write_text("bird\ncat\n")
    (folder / "twice.txt").write_text("bird\ncat\nbird\n")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    some = [(f"{i}", photo(i), "cat") for i in range(3)]
    write_labeled(folder / "cats" / "0.parquet", some)
    write_labeled(folder / "lone" / "0.parquet", [*some, ("3", photo(3), "bird")])
    write_labeled(folder / "fish" / "0.parquet", [*some, ("3", photo(3), "fish")])
    write_labeled(folder / "null" / "0.parquet", [*some, ("3", photo(3), None)])
    write_shard(folder / "none" / "0.parquet", {"a": photo(0)})
    lists = [("0", photo(0), ["cat", "dog"]), ("1", photo(1), [])]
    write_listed(folder / "lists" / "0.parquet", lists)
    write_listed(folder / "fishes" / "0.parquet", [*lists, ("3", photo(3), ["cat", "fish"])])
    write_listed(folder / "nulls" / "0.parquet", [*lists, ("3", photo(3), None)])
    write_listed(folder / "holes" / "0.parquet", [*lists, ("3", photo(3), ["cat", None])])
    return folder


@pytest.mark.parametrize(
    ("run", "images", "changes", "message"),
    [
        (
            "c2am",
            "cats",
            {"method": "cam"},
            r"of method 'c2am', which --method cam cannot label by",
        ),
        ("classifier", "cats", {"method": "c2am"}, r"of method 'classifier', which --method c2am"),
        ("psol", "cats", {"method": "cam"}, r"of method 'psol', which --method cam"),
        ("wrong", "cats", {}, r"wrong: the weights are not those of a classifier with resnet18"),
        ("classifier", "none", {}, r"0\.parquet: column 'label' is missing, which --classes true"),
        ("classifier", "null", {}, r"0\.parquet: image '3' has no label.*--classes true"),
        ("classifier", "fish", {}, r"fish/0\.parquet: 1 images are labeled 'fish', and the class"),
        ("cam", "cats", {}, r"0\.parquet: column 'labels' is missing, which --classes true"),
        ("sipe", "nulls", {}, r"0\.parquet: image '3' has no list of labels.*--classes true"),
        ("sipe", "holes", {}, r"0\.parquet: column 'labels' holds a list with a null in it"),
        ("cam", "fishes", {}, r"fishes/0\.parquet: 1 images are labeled 'fish', and the class"),
        ("sipe", "lists", {"method": "cam"}, r"of method 'sipe', which --method cam cannot"),
        ("classifier", "cats", {"method": "sipe"}, r"of method 'classifier', which --method sipe"),
        (
            "cam",
            "lists",
            {"write_decomposition": True},
            r"write_decomposition must be off for a checkpoint of images of several classes",
        ),
        (
            "c2am",
            "cats",
            {"write_class_maps": "map"},
            r"write_class_maps must be none for c2am: only cam, bridging and sipe",
        ),
        (
            "sipe",
            "lists",
            {"refine_cues": "guided", "write_cues": "map"},
            r"refine_cues must be none without write_cues image",
        ),
        ("c2am", "none", {"method": "ddt"}, r"column 'label' is missing, which --ddt-scope class"),
        ("c2am", "lone", {"method": "ddt"}, r"class 'bird' has a single image, as have 1 of 2"),
        ("c2am", "cats", {"method": "ddt", "flip": True}, r"flip must be off for ddt, got True"),
        ("psol", "cats", {"scales": (1.0, 2.0)}, r"scales must be one number for psol"),
        ("psol", "cats", {"write_cues": "map"}, r"write_cues must be none for psol, which gives"),
        ("psol", "cats", {"threshold": 0.2}, r"threshold must be auto for psol"),
        ("psol", "cats", {"max_boxes": 2}, r"max_boxes must be 1 for psol"),
        (
            "c2am",
            "cats",
            {"write_decomposition": True},
            r"write_decomposition must be off for c2am",
        ),
        (
            "classifier",
            "cats",
            {"write_decomposition": True, "flip": True},
            r"flip must be off for write_decomposition",
        ),
        (
            "classifier",
            "cats",
            {"encoder": "resnet18"},
            r"a folder, whose checkpoint knows its own",
        ),
        ("bare.pth", "cats", {"encoder": "resnet18"}, r"no linear layer.*only --method ddt"),
        (
            "bare.pth",
            "cats",
            {"encoder": "resnet34"},
            r"bare\.pth: .* encoder keys cannot be filled",
        ),
        (
            "whole.pth",
            "cats",
            {"encoder": "resnet18"},
            r"class_names must be given \(--class-names",
        ),
        (
            "whole.pth",
            "cats",
            {"encoder": "resnet18", "class_names": "two.txt"},
            r"whole\.pth: class_names gives 2 classes, the classifier has 3 outputs",
        ),
        (
            "whole.pth",
            "cats",
            {"encoder": "resnet18", "class_names": "labels"},
            r"class_names gives 1 classes",
        ),
        (
            "whole.pth",
            "cats",
            {"encoder": "resnet18", "class_names": "twice.txt"},
            r"twice\.txt: class 'bird' comes twice",
        ),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_and_leaves_nothing(
    runs: Path,
    shards: Path,
    tmp_path: Path,
    run: str,
    images: str,
    changes: dict[str, Any],
    message: str,
):
    if changes.get("class_names", "").endswith(".txt"):
        changes = changes | {"class_names": str(runs / changes["class_names"])}
    config = make_config(runs / run, shards / images, tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        label(config)
    assert not (tmp_path / "out").exists()


def test_a_missing_crf_is_refused_and_leaves_nothing(
    runs: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, None)
    config = make_config(
        runs / "c2am", shards / "cats", tmp_path / "out", refine_cues="crf", write_cues="image"
    )
    with pytest.raises(ValueError, match=r"dense CRF needs the package pydensecrf2"):
        label(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        ("c2am", {}, r"a checkpoint of method 'c2am', which knows no classes"),
        ("whole.pth", {"architecture": "efficientnet_b77"}, r"did you mean efficientnet_b7"),
        ("whole.pth", {"architecture": "resnet34"}, r"whole\.pth: .* classifier keys cannot be"),
        ("whole.pth", {"architecture": "resnet18"}, r"class_names must be given"),
        ("classifier", {"crop_px": 999}, r"crop_px must be <= resize_px \(73\), got 999"),
    ],
)
def test_what_cannot_classify_is_refused_and_leaves_nothing(
    runs: Path, shards: Path, tmp_path: Path, run: str, changes: dict[str, Any], message: str
):
    config = ClassifyConfig(
        checkpoint=str(runs / run),
        input=(str(shards / "cats"),),
        output=str(tmp_path / "out"),
        **changes,
    )
    with pytest.raises(ValueError, match=message):
        classify(config)
    assert not (tmp_path / "out").exists()


def test_classes_are_dealt_to_units_whose_statistics_fit():
    names = [f"{i}" for i in range(10)]
    units = plan_units(["a"], names, class_bytes=2**30, min_units=1)
    assert [len(unit["classes"]) for unit in units] == [2] * 5
    units = plan_units(["a"], names, class_bytes=2**40, min_units=1)
    assert [unit["classes"] for unit in units] == [[name] for name in names]
    units = plan_units(["a"], names, class_bytes=1, min_units=4)
    assert [len(unit["classes"]) for unit in units] == [3, 3, 3, 1]
    units = plan_units(["a", "b"], None, class_bytes=1, min_units=4)
    assert units == [{"uri": "a", "classes": None}, {"uri": "b", "classes": None}]


def test_torchvisions_names_tell_every_output_apart():
    names = models.torchvision_categories("resnet18", "IMAGENET1K_V1")
    assert len(set(names)) == 1000 and names[0] == "tench"
