"""The whole job with predictions: files beside the metrics, counts and warnings."""

import json
import logging
from pathlib import Path

import pytest

from c2am_dist import schema
from c2am_dist.config import EvaluateConfig, override
from c2am_dist.evaluation import evaluate
from tests.evaluation.sets import prediction_row, write_labels
from tests.test_evaluation import label_row, note_row, object_map, random_boxes, write


def write_set(root: Path) -> EvaluateConfig:
    """Forty annotated images in two classes; one lacks a label row, two lack predictions."""
    found = random_boxes(40)
    names, classes = [f"im{i}" for i in range(40)], ["cat", "dog"]
    labels = [label_row(n, object_map(box)) for n, box in zip(names, found, strict=True)]
    write_labels(root / "labels/a.parquet", labels[:20], "ddt")
    write_labels(root / "labels/b.parquet", labels[20:-1], "ddt")
    notes = [note_row(names[i], found[i], label=classes[i % 2]) for i in range(40)]
    write(root / "shards/a.parquet", notes, schema.SHARD)
    rows = [prediction_row(names[i], *classes[:: 1 if i % 4 else -1]) for i in range(38)]
    rows.append(prediction_row("extra", "cat", "dog"))
    write(root / "predictions/a.parquet", rows, schema.PREDICTIONS)
    return EvaluateConfig(
        labels=(str(root / "labels/*.parquet"),),
        annotations=(str(root / "shards"),),
        predictions=(str(root / "predictions/*.parquet"),),
        output=str(root / "out/metrics.json"),
        per_class=True,
        bootstrap=50,
    )


@pytest.mark.usefixtures("ray_cluster")
def test_job_joins_predictions_and_writes_intervals_and_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = write_set(tmp_path)
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(config)
    assert metrics == json.loads(Path(config.output).read_text())
    ddt, predicted = metrics["ddt"], metrics["predictions"]
    assert ddt["num_images"] == 39 and (ddt["num_missing"], ddt["num_extra"]) == (1, 0)
    assert predicted["num_images"] == 38  # im38 has a label row alone
    assert (predicted["num_missing"], predicted["num_extra"]) == (2, 1)
    # Right at first: of the even ones half, of the odd ones none, but for every fourth reversed.
    expected = [(["cat", "dog"][i % 2] == ("cat" if i % 4 else "dog")) for i in range(38)]
    assert predicted["top1_accuracy"] == pytest.approx(100 * sum(expected) / 38)
    assert ddt["top1_loc"] == predicted["top1_accuracy"] and ddt["top5_loc"] == 100
    assert "predictions: 2 of 40 annotated images have no row, and 1 of 39 rows" in caplog.text
    assert "ddt: 1 of 40 annotated images" in caplog.text

    beside = json.loads((tmp_path / "out/metrics.intervals.json").read_text())
    assert (beside["num_resamples"], beside["seed"], beside["confidence"]) == (50, 0, 0.95)
    low, high = beside["intervals"]["ddt"]["top1_loc"]
    assert low < ddt["top1_loc"] < high
    table = (tmp_path / "out/metrics.md").read_text()
    assert f"| top1_loc | {ddt['top1_loc']:.1f} [{low:.1f}, {high:.1f}] |" in table
    rows = json.loads((tmp_path / "out/metrics.classes.json").read_text())["classes"]
    assert [(row["class"], row["num_images"]) for row in rows] == [("cat", 20), ("dog", 19)]
    assert "| cat | 20 |" in (tmp_path / "out/metrics.classes.md").read_text()
    assert "ddt" in json.loads((tmp_path / "out/metrics.curves.json").read_text())


@pytest.mark.usefixtures("ray_cluster")
def test_job_refuses_predictions_of_other_images_than_the_labels(tmp_path: Path):
    config = write_set(tmp_path)
    write(tmp_path / "predictions/a.parquet", [prediction_row("im39", "cat")], schema.PREDICTIONS)
    with pytest.raises(ValueError, match="none of the images scored has one"):
        evaluate(config)
    assert not (tmp_path / "out").exists()


def test_number_of_resamples_is_checked():
    with pytest.raises(ValueError, match="bootstrap must be >= 0, got -1"):
        override(EvaluateConfig(), {"bootstrap": -1})
