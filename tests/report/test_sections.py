"""What a report counts, and shows of scores, training and sweeps."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from c2am_dist import checkpoint, schema, storage
from c2am_dist.evaluation import curves, job
from c2am_dist.evaluation.figures import intervals, summarise
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method import images
from c2am_dist.report import figures, publish, rows
from c2am_dist.report.overview import Overview
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.spec import SweepConfig, Trial
from tests.report import sets
from tests.report.pages import Parsed, make, of
from tests.report.sets import iou_of, write_set
from tests.test_untrusted_files import content

# Counts


def test_labels_without_images_are_counted(tmp_path: Path):
    made = write_set(tmp_path, 30, shard_images=12)
    page = make(tmp_path / "report", labels=[made.labels])
    assert re.search(r"images</th><td>30<", page) and 'id="gallery"' not in page
    assert "Score of the boxes" in page and "<script" not in page
    assert "IoU of the first box" not in page, "no box is known"


def test_histograms_count_every_label_once(tmp_path: Path):
    made = write_set(tmp_path, 40, shard_images=15)
    overview = Overview()
    files = storage.expand([made.labels])
    for row in rows.scan(files, rows.files_by_name([made.images])):
        overview.add(row)
    counts = {name: histogram.counts for name, histogram in overview.histograms.items()}
    assert all(each.sum() == 40 for each in counts.values())
    assert counts["score"][15] == 40  # 0.75
    assert counts["size"][int(20 * 1600 / 4800)] == 40
    bins = [min((40 - i) * 20 // (40 + i), 19) for i in range(40)]
    assert counts["iou"].tolist() == [bins.count(each) for each in range(20)]
    assert overview.num_hits == sum(iou_of(i) >= 0.5 for i in range(40))


# Scores, training, sweeps


def tally_of(num_images: int) -> Tally:
    rng = np.random.default_rng(0)
    tally = Tally.empty()
    for index in range(num_images):
        x0, y0 = (int(value) for value in rng.integers(0, 20, 2))
        activation = np.zeros((15, 20), np.float32)
        activation[y0 // 4 : y0 // 4 + 8, x0 // 4 : x0 // 4 + 8] = rng.uniform(0.2, 1, (8, 8))
        mask = np.zeros(sets.SIZE, np.uint8)
        mask[y0 : y0 + 30, x0 : x0 + 30] = 1
        tally.add(
            {
                "image_id": str(index),
                "error": None,
                "pseudo_boxes": [],
                "activation_map": images.encode_png16(activation),
                "label_size": sets.SIZE,
                "size": sets.SIZE,
                "boxes": [[x0, y0, x0 + 30, y0 + 30]],
                "split": "val",
                "class_index": None,
                "class_rank": None,
                "mask": cv2.imencode(".png", mask)[1].tobytes(),
            }
        )
    return tally


def test_the_curves_are_those_of_the_figures():
    tally = tally_of(12)
    found, metrics = curves.curves(tally, "c2am"), summarise(tally, "c2am")
    for method, setting in (("c2am", "threshold"), ("centre", "side")):
        accuracy = found[method]["max_box_acc"]["50"]
        assert max(accuracy) == metrics[method]["oracle_gt_known_loc"]
        at = found[method][setting].index(round(metrics[method][f"oracle_{setting}"], 4))
        assert accuracy[at] == max(accuracy)
        recall, precision = (np.array(found[method][name]) for name in ("recall", "precision"))
        area = (precision * np.diff(recall, prepend=0)).sum() / 100
        assert area == pytest.approx(metrics[method]["pxap"], abs=1e-9)
    any_contour = [max(found["c2am"]["max_box_acc_v2"][level]) for level in ("30", "50", "70")]
    assert np.mean(any_contour) == pytest.approx(metrics["c2am"]["oracle_max_box_acc_v2"])


def test_the_report_finds_the_curves_of_an_evaluation(tmp_path: Path):
    uri = sets.write_evaluation(tmp_path)
    assert Path(curves.uri_beside(uri)).exists()
    page = make(tmp_path / "report", metrics=uri)
    assert "chosen 0.31" in page and "PxAP 71.5" in page and "centred box 56.9" in page
    assert "python jobs/evaluate.py --labels labels --annotations shards" in page
    assert re.search(r"num_images</th><td>12,000</td><td>12,000<", page)
    formats = {"curves": curves.FORMAT, "intervals": job.FORMAT, "classes": job.FORMAT}
    assert figures._FORMATS == formats


def test_intervals_and_classes_stand_with_the_figures(tmp_path: Path):
    tally = tally_of(12)
    classes = [
        {"class": "easy", "num_images": 7, "gt_known_loc": 85.714, "top1_loc": None},
        {"class": "<b>hard", "num_images": 5, "gt_known_loc": 20.0, "top1_loc": None},
        {"class": "unseen", "num_images": 0, "gt_known_loc": None, "top1_loc": None},
    ]
    (tmp_path / "m.json").write_text(json.dumps(summarise(tally, "c2am")))
    found = intervals(tally, "c2am", num_resamples=50)
    told = {"format": 1, "confidence": 0.95, "num_resamples": 1500, "intervals": found}
    (tmp_path / "m.intervals.json").write_text(json.dumps(told))
    (tmp_path / "m.classes.json").write_text(json.dumps({"format": 1, "classes": classes}))
    page = make(tmp_path / "report", metrics=str(tmp_path / "m.json"))
    assert "95 % intervals, from 1,500 resamples" in page
    low, high = found["centre"]["gt_known_loc"]
    assert f"[{low:.1f}, {high:.1f}]</td>" in page
    cells = re.findall(r'<th scope="row">(.*?)</th>((?:<td>.*?</td>)+)', page)
    order = [name for name, _ in cells if name in ("easy", "&lt;b&gt;hard", "unseen")]
    assert order == ["&lt;b&gt;hard", "easy", "unseen"]
    assert dict(cells)["unseen"] == "<td>0</td><td>–</td><td>–</td>"


def test_metrics_without_curves_say_so(tmp_path: Path):
    uri = sets.write_evaluation(tmp_path)
    (tmp_path / "metrics.curves.json").unlink()
    page = make(tmp_path / "report", metrics=uri)
    assert "metrics.curves.json is not there" in page and "<svg" not in page


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "[1]", r"metrics\.json: corrupt: not a JSON object"),
        ("metrics.json", '{"c2am": 3}', r"metrics\.json: 'c2am' is no object of numbers"),
        ("metrics.curves.json", '{"format": 9}', r"curves\.json: not of format 1"),
        ("metrics.curves.json", '{"format": 1, "c2am": {"threshold": ["a"]}}', "no list of num"),
        ("metrics.intervals.json", '{"format": 1}', r"intervals\.json: confidence is no number"),
        (
            "metrics.intervals.json",
            '{"format": 1, "confidence": 0.9, "num_resamples": 9, "intervals": {"c2am": {"a": 1}}}',
            r"intervals\.json: the intervals are no pairs",
        ),
        ("metrics.classes.json", '{"format": 1, "classes": []}', r"classes\.json: no list of clas"),
        (
            "metrics.classes.json",
            '{"format": 1, "classes": [{"class": "a", "n": "b"}]}',
            r"classes\.json: n is no number",
        ),
    ],
)
def test_files_that_are_no_evaluation_are_refused(
    tmp_path: Path, name: str, text: str, message: str
):
    uri = sets.write_evaluation(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "report", metrics=uri)


def test_a_run_shows_its_curves_and_where_it_comes_from(tmp_path: Path):
    run = sets.write_run(tmp_path / "run")
    told = {"config": '{"loss": {"alpha": 0.25}}', "border_lock": 0.95, "polarity_margin": 0.3125}
    saved = checkpoint.Checkpoint(**content(**told))
    sha256 = checkpoint.save(f"{run}/checkpoint", saved)
    made = write_set(tmp_path, 2, label=lambda row: row | {"checkpoint_sha256": sha256})
    page = make(tmp_path / "report", run=run, **of(made))
    for text in (sha256, "0.95", "Loss and its terms", "Waiting for data", "by this checkpoint"):
        assert text in page
    for name, version in {"torch": torch.__version__, "ray": ray.__version__}.items():
        assert f"{name} of the run</th><td>{version}<" in page
    assert "polarity margin</th><td>0.3125<" in page, "of the checkpoint"
    assert re.search(r"<td>foreground</td><td>0.25</td>", page), "of the labels"
    assert "--data.train s3://bucket/train" in page and "--loss.alpha 0.25" in page
    assert "1 images could not be decoded" in page
    other = make(tmp_path / "other", run=run, **of(write_set(tmp_path / "other-labels", 2)))
    assert "by another checkpoint" in other


def test_a_run_whose_manifest_names_no_versions_is_shown_without(tmp_path: Path):
    run = sets.write_run(tmp_path / "run")
    checkpoint.save(f"{run}/checkpoint", checkpoint.Checkpoint(**content(config="{}")))
    path = Path(run, "checkpoint", "manifest.json")
    manifest = json.loads(path.read_text())
    for versions in ({}, {"versions": None}, {"versions": [1]}):  # older ones, and forged
        path.write_text(json.dumps({**manifest, "versions": 0} | versions))
        assert "of the run</th>" not in make(tmp_path / "report", run=run)


def test_a_cut_off_last_row_is_no_error_and_a_corrupt_one_is_named(tmp_path: Path):
    run = Path(sets.write_run(tmp_path / "run"))
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + '{"step": 51, "lo')
    assert "Loss and its terms" in make(tmp_path / "report", run=str(run))
    (run / "metrics.jsonl").write_text("{\n" + text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 1 is not JSON"):
        make(tmp_path / "report", run=str(run))


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path):
    run = Path(sets.write_run(tmp_path / "run"))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 600, "loss": NaN}\n{"step": 610, "loss": Infinity}\n')
    page = make(tmp_path / "report", run=str(run))
    assert not re.search(r" d=\"[^\"]*(nan|inf)", page) and "Infinity" not in page


def test_a_sweep_shows_means_and_spread_and_what_failed(tmp_path: Path):
    page = make(tmp_path / "report", sweep=sets.write_sweep(tmp_path / "sweep"))
    text = Parsed(page).text
    assert "6 trials over loss.alpha." in text and "1 failed: in the table of trials" in text
    assert "51 ± 1.4" in text and "61 ± 1.4" in text  # two seeds, 2 apart
    assert "loss is nan" in text and "python jobs/train.py --data.train shards" in text
    assert "GT-known Loc over loss.alpha" in text and "MaxBoxAccV2 over loss.alpha" in text
    assert "python tune/sweep.py --sweep loss.alpha=0,0.25,0.5 --run.name 'a b'" in text
    assert "'command'" not in text and '"command"' not in text


def test_trials_that_were_stopped_early_are_in_no_mean_and_in_no_chart(tmp_path: Path):
    def went(index: int, trial: Trial) -> Record | None:
        if index == 1:  # the first seed of alpha 0.25
            figures = {"gt_known_loc": 17.25, "max_box_acc_v2": 17.25}
            return Record(status="stopped", reason="by ASHA at 25%", figures=figures)
        return None if index == 4 else sets.went(index, trial)

    page = make(tmp_path / "report", sweep=sets.write_sweep(tmp_path / "sweep", record=went))
    text = Parsed(page).text
    assert "1 stopped early, 1 failed, 1 unfinished: in the table of trials" in text
    assert "by ASHA at 25%" in text
    assert text.count("17.25") == 3, "value and both scores in the table of trials alone"
    assert "51 ± 1.4" in text


def test_a_sweep_of_names_and_a_second_field_has_a_line_for_each(tmp_path: Path):
    sweep = SweepConfig(
        sweep=("model.head_init=kaiming_normal,uniform", "loss.alpha=0.001,0.1"), seeds=1
    )
    page = make(tmp_path / "report", sweep=sets.write_sweep(tmp_path / "sweep", sweep))
    text = Parsed(page).text
    assert "flip_agreement over model.head_init" in text
    assert "model.head_init kaiming_normal" in text and "loss.alpha 0.001" in text


def test_a_sweep_without_results_is_named(tmp_path: Path):
    (tmp_path / "sweep").mkdir()
    with pytest.raises(FileNotFoundError, match=r"sweep/results\.parquet"):
        make(tmp_path / "report", sweep=str(tmp_path / "sweep"))
    for columns, missing in (({"x": [1]}, "trial"), ({"trial": ["a"], "status": [1.5]}, "status")):
        pq.write_table(pa.table(columns), tmp_path / "sweep" / "results.parquet")
        with pytest.raises(ValueError, match=f"column '{missing}' is missing, or no text"):
            make(tmp_path / "report", sweep=str(tmp_path / "sweep"))


def test_the_label_command_is_what_differs_from_the_defaults(tmp_path: Path):
    made = write_set(tmp_path, 1)
    page = make(tmp_path / "report", labels=[made.labels])
    command = f"python jobs/label.py --checkpoint runs/a --input shards --output {made.labels}"
    assert all(part in page for part in (command.rpartition(" --output")[0], "--max-boxes 2"))


# What each needs of schema is what schema has


def test_the_columns_of_a_row_are_those_of_the_labels():
    older = set(schema.LABELS.names) - set(schema.LATER_LABEL_COLUMNS)
    assert set(sets.label_row(0, "s")) == older
    assert set(rows._COLUMNS) < set(schema.LABELS.names)
    assert publish.is_single("a/B.HTML") and not publish.is_single("s3://bucket/report")
