"""Segmentation's tables as a command: which rows, which training, and how they are told."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.config.reproduce_masks import WsssConfig
from c2am_dist.data.prepare import prepare
from c2am_dist.data.scenes import write_voc_scenes
from c2am_dist.reproduce import wsss_table
from c2am_dist.reproduce.wsss_rows import Row, plan, trained, training
from c2am_dist.reproduce.wsss_table import Cues, Result
from tests.conftest import BASE
from tests.images import write_shards

CONFIG = WsssConfig(
    train=("train",), val=("val",), output="out", start="resnet50:supervised=IMAGENET1K_V1"
)


def changed(**changes: object) -> WsssConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_a_row_is_maps_what_competes_with_them_and_a_refinement():
    rows = plan(changed(rows=("cam", "cam+guided", "cam+c2am+crf", "cam+saliency", "sipe-cam")))
    assert rows == [
        Row("cam"),
        Row("cam", refinement="guided"),
        Row("cam", "c2am", "crf"),
        Row("cam", "saliency"),
        Row("sipe-cam"),
    ]
    assert [row.name for row in rows] == [
        "cam", "cam+guided", "cam+c2am+crf", "cam+saliency", "sipe-cam",
    ]  # fmt: skip
    assert {row.baseline for row in rows} == {Row("cam"), Row("sipe-cam")}


def test_other_projects_maps_have_rows_of_their_own():
    rows = plan(changed(rows=("cam",), cams=("seam=s3://bucket/seam",)))
    assert [row.name for row in rows] == ["cam", "seam", "seam+crf", "seam+c2am"]
    assert trained(rows) == ["cam", "c2am"]


def test_only_what_rows_need_is_trained():
    assert trained(plan(changed(rows=("cam", "cam+crf")))) == ["cam"]
    assert trained(plan(changed(rows=("sipe", "sipe+c2am")))) == ["c2am", "sipe"]
    assert trained(plan(changed(rows=("cam+saliency",)))) == ["cam", "c2am", "saliency"]


def test_presets_are_vocs_and_c2am_may_start_elsewhere():
    config = changed(
        c2am_start="resnet50:moco=moco.pth",
        settings=("sipe:optim.epochs=2", "all:optim.batch_size=8"),
    )
    sipe, c2am = training(config, "sipe"), training(config, "c2am")
    assert (sipe.preset, sipe.model.weights, sipe.optim.epochs) == ("sipe-voc", "IMAGENET1K_V1", 2)
    assert (c2am.preset, c2am.model.weights, c2am.loss.alpha) == ("voc", "moco.pth", 0.25)
    assert (c2am.run.name, c2am.optim.batch_size) == ("c2am-resnet50-moco", 8)
    learned = training(config, "saliency", "cues")
    assert (learned.data.cues, learned.preset) == (("cues",), "saliency-voc")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": ()}, "val must be given"),
        ({"start": ""}, "start must be given"),
        ({"start": "resnet50"}, "start must be ENCODER:NAME=WEIGHTS"),
        ({"c2am_start": "alexnet:a=w"}, "c2am_start must be .* ENCODER one of resnet18"),
        ({"rows": ("cam", "cam")}, "rows must be distinct"),
        ({"cams": ("seam",)}, "cams must be NAME=URI"),
        ({"cams": ("cam=folder",)}, "cams: 'cam' is taken"),
        ({"cams": ("sipe=folder",), "rows": ("cam",)}, "cams: 'sipe' is taken"),
        ({"cams": ("seam=a", "seam=b")}, "cams: a name comes twice"),
        ({"thresholds": (1.5,)}, r"thresholds must be numbers in \[0, 1\]"),
        ({"scales": ()}, "scales must be"),
        ({"settings": ("psol:optim.epochs=1",)}, "METHOD one of cam, c2am, sipe, saliency"),
        ({"settings": ("sipe:optim.epoch=1",)}, r"did you mean optim\.epochs"),
        ({"settings": ("sipe:model.encoder=vgg16",)}, "settings: sipe: model.encoder"),
    ],
)
def test_what_means_nothing_is_refused_by_name(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        plan(changed(**changes))


def test_the_table_tells_gains_and_the_papers_figures():
    first = [{"class": name, "iou": iou} for name, iou in (("chair", 25.0), ("bird", 50.0))]
    plain = {
        "miou": 40.0, "false_activation": 30.0, "missed_activation": 20.0, "classes": first,
        "num_errors": 1, "num_images": 100,
    }  # fmt: skip
    classes = [
        {"class": "background", "iou": 90.0, "baseline_iou": 60.0, "gain": 30.0},
        {"class": "bird", "iou": 70.0, "baseline_iou": 50.0, "gain": 20.0},
        {"class": "chair", "iou": 20.0, "baseline_iou": 25.0, "gain": -5.0},
        {"class": "dog", "iou": None, "baseline_iou": None, "gain": None},
    ]
    results = [
        Result(row=Row("cam"), threshold=0.3, metrics=plain),
        Result(row=Row("cam", "c2am"), threshold=None,
               metrics={**plain, "miou": 52.5, "classes": classes}),
    ]  # fmt: skip
    cues = Cues("c2am", {"foreground_iou": 60.0, "oracle_foreground_iou": 61.0, "pxap": 70.0})
    text = wsss_table.markdown(CONFIG, results, [cues], {"cam": training(CONFIG, "cam")})
    first, second = [line for line in text.splitlines() if line.startswith("| cam")]
    assert first.startswith("| cam (1 of 100 without a mask) | 0.3 (oracle) | 40.0 | – | 30.0 |")
    assert "| 20.0 | – | – | 48.0 to 55.6 (Table 5" in first
    assert "| cam+c2am (1 of 100 without a mask) | c2am | 52.5 | +12.5 |" in second
    # Table 4's order and its ranges over five methods.
    assert "| bird | 50.0 | 70.0 | 36.7 to 57.5 | 77.9 to 80.5 |" in text
    assert text.index("| bird") < text.index(
        "| chair | 25.0 | 20.0 | 16.7 to 35.0 | 21.3 to 27.0 |"
    )
    assert "| bird +20.0 | chair -5.0 | 63.9 to 66.0 (Table 5" in second
    assert "| c2am | 60.0 | 61.0 | 70.0 |" in text
    assert "cam: resnet50 from IMAGENET1K_V1, 5 epochs over train, batch 16" in text


@pytest.mark.slow
def test_every_row_is_made_and_made_once(ray_cluster: Path, tmp_path: Path):
    pytest.importorskip("pydensecrf", reason="dense CRF is optional: pip install pydensecrf2")
    from c2am_dist.reproduce.wsss import wsss

    scenes = tmp_path / "voc"
    write_voc_scenes(scenes, num_train=24, num_val=8, size_px=64)
    uris = {split: str(tmp_path / split) for split in ("train", "val")}
    for split, uri in uris.items():
        prepare(PrepareConfig(format="voc", input=(str(scenes),), split=split, output=uri))
    tiny = {k: v for k, v in BASE.items() if k.startswith(("data", "optim", "scaling", "run"))}
    config = WsssConfig(
        train=(uris["train"],),
        val=(uris["val"],),
        output=str(tmp_path / "out"),
        label_map=str(scenes / "classes.txt"),
        start="resnet18:random=none",
        rows=("cam", "cam+crf", "cam+guided", "cam+c2am", "cam+saliency", "sipe-cam", "sipe"),
        thresholds=(0.2, 0.5),
        scales=(1.0,),
        cue_threshold="otsu",
        settings=tuple(f"all:{path}={value}" for path, value in tiny.items()),
    )
    first, cues = wsss(config)
    assert [result.row.name for result in first] == list(config.rows)
    assert [each.name for each in cues] == ["c2am", "saliency"]
    assert all(result.metrics["num_images"] == 8 for result in first)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    again, _ = wsss(config)
    assert [r.metrics for r in again] == [r.metrics for r in first]
    assert {p: p.stat().st_mtime_ns for p in files} == files, "made again"
    runs = {method: training(config, method) for method in trained(plan(config))}
    table = (tmp_path / "out/table.md").read_text()
    assert table == wsss_table.markdown(config, again, cues, runs)


def test_what_a_later_step_would_refuse_is_refused_before_training(tmp_path: Path):
    from c2am_dist.reproduce.wsss import wsss

    shards = write_shards(tmp_path / "shards", 4)
    config = changed(train=(shards,), val=(shards,), rows=("cam",), output=str(tmp_path / "out"))
    without = tmp_path / "without.parquet"
    written = next(Path(shards).glob("*.parquet"))
    pq.write_table(pq.read_table(written).drop_columns(["mask"]), without)
    with pytest.raises(ValueError, match=r"without\.parquet: column 'mask' is missing"):
        wsss(dataclasses.replace(config, val=(str(without),)))
    with pytest.raises(FileNotFoundError, match="nowhere: no such file, and no label map"):
        wsss(dataclasses.replace(config, label_map=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"cams: .*nowhere: no such folder"):
        wsss(dataclasses.replace(config, cams=(f"seam={tmp_path}/nowhere",), rows=("cam",)))
    with pytest.raises(ValueError, match="cue_threshold"):
        wsss(dataclasses.replace(config, cue_threshold=1.5))
    assert not (tmp_path / "out").exists()
