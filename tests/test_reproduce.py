"""The papers' tables as commands: which rows, which training, and how they are told."""

import dataclasses
import json
from pathlib import Path

import pytest

from c2am_dist.config import Method
from c2am_dist.config.reproduce import WsolConfig
from c2am_dist.reproduce import table
from c2am_dist.reproduce.published import TABLES, nearest
from c2am_dist.reproduce.rows import plan, trained, training
from c2am_dist.reproduce.table import Result
from tests.conftest import BASE
from tests.images import write_shards

CONFIG = WsolConfig(
    train=("train",),
    val=("val",),
    output="out",
    starts=("resnet50:moco=moco.pth", "vgg16:supervised=IMAGENET1K_V1"),
)


def changed(**changes: object) -> WsolConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_every_start_has_a_row_a_method_and_cam_has_one():
    names = [row.name for row in plan(CONFIG)]
    methods = ["ddt", "bridging", "c2am", "c2am+psol"]
    assert names == [
        "cam-resnet50-moco",
        *[f"{method}-resnet50-moco" for method in methods],
        *[f"{method}-vgg16-supervised" for method in methods],
    ]


def test_cams_row_is_the_classifiers():
    (cam,) = plan(changed(methods=("cam",), classifier="densenet161=d.pth"))
    assert (cam.name, cam.weights) == ("cam-densenet161-supervised", "d.pth")
    assert trained("cam", with_classifier=False) == []
    assert trained("cam", with_classifier=True) == ["classifier"]


def test_presets_are_the_data_sets_and_settings_change_them():
    row = plan(CONFIG)[-1]
    run = training(CONFIG, "bridging", row)
    assert (run.preset, run.bridging.drop_weight) == ("bridging-imagenet-vgg16", 3.0)
    assert (run.model.weights, run.run.storage) == ("IMAGENET1K_V1", "out/runs")
    cub = changed(dataset="cub", settings=("c2am:optim.epochs=2", "all:optim.batch_size=8"))
    run = training(cub, "c2am", row)
    assert (run.preset, run.data.crop_px, run.optim.epochs, run.optim.batch_size) == (
        "cub", 448, 2.0, 8,
    )  # fmt: skip
    assert training(cub, "psol", row).optim.epochs == 6.0
    methods: tuple[Method, ...] = ("c2am", "psol", "bridging")
    names = {training(CONFIG, method, row).run.name for method in methods}
    assert len(names) == 3, "runs share a folder"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ()}, "train must be given"),
        ({"starts": ("resnet50=w.pth",)}, "starts must be ENCODER:NAME=WEIGHTS"),
        ({"starts": ("alexnet:moco=w.pth",)}, "ENCODER one of resnet18.*alexnet"),
        ({"starts": ("resnet50:a=w", "resnet50:a=v")}, "starts: resnet50:a comes twice"),
        ({"classifier": "resnet50"}, "classifier must be ENCODER=WEIGHTS"),
        ({"methods": ("ddt", "ddt")}, "methods must be distinct"),
        (
            {"settings": ("c2am:optim.epoch=1",)},
            r"no field of training; did you mean optim\.epochs",
        ),
        ({"settings": ("mocha:optim.epochs=1",)}, "METHOD one of"),
        ({"settings": ("c2am:optim.epochs=many",)}, r"optim\.epochs: 'many' is not a number"),
        ({"settings": ("c2am:loss.alpha=-1",)}, r"c2am-resnet50-moco: loss\.alpha must be >= 0"),
        ({"bootstrap": -1}, "bootstrap must be >= 0"),
        ({"size_px": 0}, "size_px must be positive"),
    ],
)
def test_what_means_nothing_is_refused_by_name(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        plan(changed(**changes))


def test_the_papers_figures_stand_beside_ours():
    (row,) = nearest("c2am", "imagenet", "resnet50", "supervised")[:1]
    assert (row.table, row.gt_known_loc) == (2, 65.89)
    both = nearest("c2am", "cub", "vgg16", "supervised")
    assert [(r.table, r.gt_known_loc, r.max_box_acc_v2) for r in both] == [
        (2, 75.34, None), (3, None, 81.4),
    ]  # fmt: skip
    # An encoder of ours that they have not: their usual one.
    (usual, third) = nearest("c2am", "imagenet", "resnet18", "early")
    assert (usual.gt_known_loc, third.max_box_acc_v2) == (66.51, 66.8)
    assert nearest("c2am+psol", "imagenet", "resnet18", "early")[0].top1_loc == 59.56
    assert nearest("ddt", "imagenet", "resnet18", "supervised")[0].gt_known_loc == 59.92
    assert nearest("c2am+psol", "imagenet", "resnet18", "supervised")[0].top1_loc == 59.28
    assert nearest("bridging", "imagenet", "resnet50", "supervised") == []
    assert len(TABLES) == len(set(TABLES))


def test_the_table_tells_both_thresholds_and_what_differs():
    config = changed(methods=("c2am",), settings=("c2am:data.limit=500",))
    row = plan(config)[0]
    figures = {"gt_known_loc": 50.0, "top1_loc": 20.0, "top5_loc": 40.0, "max_box_acc_v2": 45.0}
    maps = figures | {f"oracle_{name}": value + 1 for name, value in figures.items()}
    counts = {"top1_accuracy": 30.0, "top5_accuracy": 60.0, "num_images": 100}
    metrics = {"c2am": maps, "centre": maps, "predictions": counts}
    runs = {"c2am": training(config, "c2am", row)}
    result = Result(row=row, steps=runs, metrics=metrics, seconds=1.0)
    text = table.markdown(config, [result])
    (line,) = [line for line in text.splitlines() if line.startswith("| c2am")]
    assert "| resnet50 | moco | 50.0 / 51.0 | 20.0 / 21.0 | 40.0 / 41.0 | 45.0 / 46.0 |" in line
    assert "GT-known 66.5 (Table 2, resnet50, moco)" in line
    assert "weights moco.pth; c2am: 5 epochs over 500 images, batch 256, 224 px" in line
    assert "top-1 30.0, top-5 60.0 of 100 images" in text
    boxes = {f"stored_{name}": value for name, value in figures.items()}
    psol = Result(row=row, steps={}, metrics=metrics | {"c2am": boxes}, seconds=1.0)
    assert "| 50.0 | 20.0 | 40.0 | 45.0 |" in table.markdown(config, [psol]).splitlines()[3]


@pytest.mark.slow
def test_every_row_is_made_and_made_once(ray_cluster: Path, tmp_path: Path):
    from c2am_dist.reproduce.wsol import wsol

    shards = write_shards(tmp_path / "shards", 32)
    tiny = {k: v for k, v in BASE.items() if k.startswith(("data", "optim", "scaling", "run"))}
    config = WsolConfig(
        train=(shards,),
        val=(shards,),
        output=str(tmp_path / "out"),
        starts=("resnet18:random=none",),
        methods=("cam", "bridging", "c2am", "c2am+psol"),
        settings=tuple(f"all:{path}={value}" for path, value in tiny.items()),
        bootstrap=50,
    )
    first = wsol(config)
    assert [r.row.method for r in first] == list(config.methods)
    assert all("stored_gt_known_loc" in r.own for r in first)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/labels").rglob("*.parquet")}
    again = wsol(config)
    assert [r.metrics for r in again] == [r.metrics for r in first]
    assert {p: p.stat().st_mtime_ns for p in files} == files, "labeled again"
    written = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["name"] for row in written] == [r.row.name for r in first]
    assert (tmp_path / "out/table.md").read_text() == table.markdown(config, again)
