"""Runs of the methods beside C²AM, from shards to checkpoints."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import checkpoint, schema
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import TrainConfig, override, to_json
from c2am_dist.data import synthetic
from c2am_dist.forecast import Cluster
from c2am_dist.labeling import models
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.saliency import SaliencyNet
from c2am_dist.method.sipe_model import SipeClassifier
from c2am_dist.training import dry_run, fit
from c2am_dist.training.fit import refuse_other_config
from c2am_dist.training.inputs import LastLayer, check_last_layer
from tests.conftest import BASE
from tests.cues import write_cues
from tests.images import write_shards
from tests.labeled import Labeled, picture, write_set

SMALL = {**BASE, "model.output_stride": 16}


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_listed_shards(folder: Path, num_images: int) -> str:
    """Shards whose images have two classes, one, or none at all."""
    uri = write_shards(folder, num_images)
    for path in sorted(folder.iterdir()):
        table = pq.read_table(path)
        classes = table["label"].to_pylist()
        lists = [sorted({own, classes[0]}) if row % 4 else [] for row, own in enumerate(classes)]
        column = pa.array(lists, schema.SHARD.field("labels").type)
        place = table.column_names.index("labels")
        pq.write_table(table.set_column(place, "labels", column), path, row_group_size=8)
    return uri


def interrupted(finished: Path, name: str) -> Path:
    """A copy of a run as it was right after its checkpoint at step 3."""
    run = finished.with_name(name)
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoint")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    (run / "config.json").unlink()
    return run


@pytest.mark.usefixtures("ray_cluster")
def test_bridging_on_two_workers_and_resumed_on_one_ends_in_the_same_weights(tmp_path: Path):
    bias = torch.linspace(-1, 1, len(synthetic.CLASSES))
    config = override(
        TrainConfig(),
        {
            **SMALL,
            "method": "bridging",
            "data.train": (write_shards(tmp_path / "shards", 24),),
            "data.random_resize": True,
            "optim.nesterov": True,
            "optim.power": 0.0,
            "optim.decay_epochs": (1.0,),  # after three steps
            "model.weights": _save_classifier(tmp_path / "weights.pth", bias),
            "model.last_layer": "weights",
            "bridging.drop_threshold": 0.5,
            "bridging.drop_rate": 0.5,
            "run.storage": str(tmp_path),
            "run.name": "two",
        },
    )
    two = Path(fit(config).run)
    saved, _ = checkpoint.load(str(two))
    assert (saved.method, saved.step, saved.output_stride) == ("bridging", 6, 16)
    assert saved.classes == sorted(synthetic.CLASSES)
    assert saved.polarity == "" and saved.boxes_sha256 == ""
    torch.testing.assert_close(saved.model["fc.bias"], bias, rtol=0, atol=0.01)  # 6 small steps
    assert json.loads(saved.config)["bridging"]["drop_rate"] == 0.5
    rows = rows_of(two)
    for row in rows:
        terms = ("classification", "drop", "similarity", "norm")
        assert math.isclose(row["loss"], sum(row[term] for term in terms), rel_tol=1e-5)
        assert 0 <= row["accuracy"] <= 1 and row["drop"] > 0
    assert [row["similarity"] == 0 for row in rows] == [True, True, *[False] * 4]  # 20/70 of 6
    assert [row["lr"] for row in rows] == pytest.approx([1e-4] * 3 + [1e-5] * 3)

    one = interrupted(two, "one")
    fit(override(config, {"run.name": "one", "scaling.num_workers": 1}))
    resumed, _ = checkpoint.load(str(one))
    for name, tensor in saved.model.items():
        torch.testing.assert_close(resumed.model[name], tensor, rtol=1e-3, atol=1e-3, msg=name)
    for ours, theirs in zip(rows_of(one), rows, strict=True):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-3)


def _save_classifier(path: Path, bias: torch.Tensor) -> str:
    """A classifier in torchvision's format."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet18")
    linear = {"fc.weight": torch.zeros(len(bias), encoder.num_last_features), "fc.bias": bias}
    torch.save(encoder.state_dict() | linear, path)
    return str(path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r"last_layer: w\.pth has no linear layer over the features of resnet50"),
        (LastLayer(num_outputs=3, classes=[]), r"w\.pth has 3 outputs, and data\.train 2 classes"),
        (
            LastLayer(num_outputs=2, classes=["cat", "emu"]),
            r"w\.pth knows other classes than data\.train has, such as 'emu' instead of 'dog'",
        ),
    ],
)
def test_a_last_layer_of_other_classes_is_refused(found: LastLayer | None, message: str):
    values = {"method": "classifier", "model.weights": "w.pth", "model.last_layer": "weights"}
    config = override(TrainConfig(), values)
    with pytest.raises(ValueError, match=message):
        check_last_layer(config, found, ["cat", "dog"])
    check_last_layer(override(config, {"model.last_layer": "new"}), found, ["cat", "dog"])
    for classes in ([], ["cat", "dog"]):
        check_last_layer(config, LastLayer(num_outputs=2, classes=classes), ["cat", "dog"])


@pytest.mark.usefixtures("ray_cluster")
def test_psol_trains_on_the_boxes_of_a_label_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    shown = {
        f"i{n:02d}": Labeled(picture((64, 64)), [(0, 0, 32, 32, 0.9)], None, (64, 64))
        for n in range(22)
    }
    shown["i22"] = Labeled(picture((64, 64)), (), None, (64, 64))
    shown["i23"] = Labeled(b"broken", (), "unreadable", (64, 64))
    write_set(tmp_path, shown)
    config = override(
        TrainConfig(),
        {
            **SMALL,
            "method": "psol",
            "data.train": (str(tmp_path / "shards"),),
            "data.boxes": (str(tmp_path / "labels"),),
            "optim.lr": 1e-2,
            "optim.max_steps": 4,
            "run.checkpoint_every": 2,
            "run.storage": str(tmp_path / "runs"),
            "run.name": "psol",
        },
    )
    cluster = Cluster(num_machines=1, num_cpus=4)
    assert str(dry_run(config, PlanConfig(), cluster)).startswith("psol: 32 images in 4 steps of 8")
    run = Path(fit(config).run)
    assert "psol: 22 images, 2 steps an epoch" in capfd.readouterr().out
    saved, _ = checkpoint.load(str(run))
    assert (saved.method, saved.classes, saved.polarity) == ("psol", [], "")
    assert len(saved.boxes_sha256) == 64 and saved.model["head.2.bias"].shape == (4,)
    rows = rows_of(run)
    assert len(rows) == 4 and all(0 < row["box_iou"] < 1 for row in rows)
    assert all(row["images_replaced"] == 0 for row in rows)  # the broken image has no box

    shutil.rmtree(tmp_path / "labels")
    shown["i00"] = Labeled(picture((64, 64)), [(0, 0, 9, 9, 0.5)], None, (64, 64))
    write_set(tmp_path, shown)
    shutil.rmtree(run / "checkpoint")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    with pytest.raises(ValueError, match=r"data\.boxes: .* was trained on other boxes"):
        fit(config)


@pytest.mark.usefixtures("ray_cluster")
def test_cam_trains_a_classifier_of_several_classes_an_image(tmp_path: Path):
    config = override(
        TrainConfig(),
        {
            **SMALL,
            "method": "cam",
            "data.train": (write_listed_shards(tmp_path / "shards", 24),),
            "optim.max_steps": 3,
            "run.storage": str(tmp_path),
            "run.name": "cam",
        },
    )
    cluster = Cluster(num_machines=1, num_cpus=4)
    assert str(dry_run(config, PlanConfig(), cluster)).startswith("cam: 24 images in 3 steps of 8")
    run = fit(config).run
    saved, _ = checkpoint.load(run)
    assert (saved.method, saved.classes) == ("cam", sorted(synthetic.CLASSES))
    assert isinstance(models.filled(saved, run), Classifier)
    rows = rows_of(Path(run))
    assert len(rows) == 3 and all(row["loss"] > 0 and 0 <= row["f1"] <= 1 for row in rows)


@pytest.mark.usefixtures("ray_cluster")
def test_sipe_on_two_workers_and_resumed_on_one_ends_in_the_same_weights(tmp_path: Path):
    config = override(
        TrainConfig(),
        {
            **SMALL,
            "method": "sipe",
            "data.train": (write_listed_shards(tmp_path / "shards", 24),),
            "data.resize_px": 72,
            "data.crop_px": 64,
            "model.norm": "frozen",
            "optim.max_gradient_norm": 0.1,
            "run.storage": str(tmp_path),
            "run.name": "two",
        },
    )
    cluster = Cluster(num_machines=1, num_cpus=4)
    assert str(dry_run(config, PlanConfig(), cluster)).startswith("two: 48 images in 6 steps of 8")
    two = Path(fit(config).run)
    saved, _ = checkpoint.load(str(two))
    assert (saved.method, saved.classes) == ("sipe", sorted(synthetic.CLASSES))
    assert isinstance(models.filled(saved, str(two)), SipeClassifier)
    rows = rows_of(two)
    for row in rows:
        terms = row["classification"] + row["consistency"]
        assert math.isclose(row["loss"], terms, rel_tol=1e-5) and row["consistency"] > 0

    one = interrupted(two, "one")
    fit(override(config, {"run.name": "one", "scaling.num_workers": 1}))
    resumed, _ = checkpoint.load(str(one))
    for name, tensor in saved.model.items():
        torch.testing.assert_close(resumed.model[name], tensor, rtol=1e-3, atol=1e-3, msg=name)
    for ours, theirs in zip(rows_of(one), rows, strict=True):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-3)


@pytest.mark.usefixtures("ray_cluster")
def test_saliency_trains_on_the_cues_of_a_label_set(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shards = write_shards(tmp_path / "shards", 24, broken={5: b"broken"})

    def cue_of(image_id: str) -> np.ndarray | None:
        return None if image_id == "image-0003" else np.full((16, 16), 0.75, np.float32)

    config = override(
        TrainConfig(),
        {
            **SMALL,
            "method": "saliency",
            "data.train": (shards,),
            "data.cues": (write_cues(Path(shards), tmp_path / "cues", cue_of),),
            "optim.lr": 1e-2,
            "optim.max_steps": 4,
            "run.checkpoint_every": 2,
            "run.storage": str(tmp_path / "runs"),
            "run.name": "saliency",
        },
    )
    cluster = Cluster(num_machines=1, num_cpus=4)
    text = str(dry_run(config, PlanConfig(), cluster))
    assert text.startswith("saliency: 32 images in 4 steps of 8")
    run = Path(fit(config).run)
    told = "data.cues: 23 images have a cue; 1 have none and teach nothing"
    assert told in capfd.readouterr().out
    saved, _ = checkpoint.load(str(run))
    assert (saved.method, saved.classes, len(saved.cues_sha256)) == ("saliency", [], 64)
    assert isinstance(models.filled(saved, str(run)), SaliencyNet)
    rows = rows_of(run)
    assert len(rows) == 4 and all(0.4 < row["loss"] < 1.5 for row in rows)  # 0.56 at best, if known
    assert sum(row["images_replaced"] for row in rows) >= 1  # an epoch shows every image

    shutil.rmtree(tmp_path / "cues")
    write_cues(Path(shards), tmp_path / "cues", lambda _: np.zeros((4, 4), np.float32))
    shutil.rmtree(run / "checkpoint")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    with pytest.raises(ValueError, match=r"data\.cues: .* was trained on other cues"):
        fit(config)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "cam"}, r"shard-00000\.parquet: image 'i0' without labels, one of 3"),
        ({"method": "sipe"}, r"shard-00000\.parquet: image 'i0' without labels, one of 3"),
        ({"method": "saliency"}, r"data\.cues must be given with saliency"),
        ({"method": "saliency", "data.cues": ("nowhere",)}, r"nowhere"),
        (
            {"method": "saliency", "data.cues": ("LABELS",)},
            r"labels: no image has a background cue",
        ),
        ({"method": "bridging"}, r"shard-00000\.parquet: \d+ images without a label"),
        ({"method": "classifier"}, r"shard-00000\.parquet: \d+ images without a label"),
        ({"method": "psol"}, r"data\.boxes must be given with psol"),
        ({"method": "psol", "data.boxes": ("nowhere",)}, r"nowhere"),
    ],
)
def test_missing_labels_boxes_and_cues_are_named_before_workers_start(
    tmp_path: Path, changes: dict[str, object], message: str
):
    write_set(tmp_path, {f"i{n}": Labeled(picture()) for n in range(8)})
    if changes.get("data.cues") == ("LABELS",):
        changes = changes | {"data.cues": (str(tmp_path / "labels"),)}
    values = {"data.train": (str(tmp_path / "shards"),), "run.storage": str(tmp_path / "runs")}
    config = override(TrainConfig(), {**SMALL, **values, "run.name": "refused", **changes})
    with pytest.raises((ValueError, OSError), match=message):
        fit(config)
    assert not (tmp_path / "runs" / "refused").exists()


def test_a_run_older_than_a_field_had_its_default(tmp_path: Path):
    config = override(TrainConfig(), {"run.name": "old"})
    old = json.loads(to_json(config))
    del old["bridging"], old["optim"]["nesterov"], old["data"]["boxes"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    refuse_other_config(str(tmp_path), config)
    with pytest.raises(ValueError, match=r"optim\.nesterov was False, now True"):
        refuse_other_config(str(tmp_path), override(config, {"optim.nesterov": True}))
