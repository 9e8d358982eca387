import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.config import EvaluateConfig
from c2am_dist.evaluation import evaluate, inputs, markdown
from c2am_dist.evaluation.figures import summarise
from c2am_dist.evaluation.tally import Tally, half_of
from c2am_dist.method.boxes import pseudo_boxes
from c2am_dist.method.images import encode_png16

SIZE = (60, 80)  # height, width


def object_map(box: tuple[int, int, int, int]) -> np.ndarray:
    """A map of 15 x 20 cells that is bright on a box given in image pixels, and graded."""
    x0, y0, x1, y1 = (round(value / 4) for value in box)
    activation = np.zeros((15, 20), np.float32)
    activation[y0:y1, x0:x1] = 1.0
    return cv2.GaussianBlur(activation, (3, 3), 0)


def label_row(image_id: str, activation: np.ndarray | None, **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(schema.LABELS.names)
    row |= {"image_id": image_id, "shard": "a.parquet", "height": SIZE[0], "width": SIZE[1]}
    row |= {"checkpoint_sha256": "0", "config_sha256": "0", "package_version": "0"}
    if activation is not None:
        found, scores = pseudo_boxes(activation, threshold=0.5, image_size=SIZE)
        row["pseudo_boxes"] = [
            dict(zip(("x0", "y0", "x1", "y1", "score"), [*map(int, box), score], strict=True))
            for box, score in zip(found, scores, strict=True)
        ]
        row["activation_map"] = encode_png16(activation / max(activation.max(), 1e-9))
    return row | changes


def note_row(image_id: str, *found: tuple[int, int, int, int], **changes: Any) -> dict[str, Any]:
    row = {"image_id": image_id, "image": b"", "height": SIZE[0], "width": SIZE[1]}
    return row | {"boxes": [list(box) for box in found], "split": "val"} | changes


def write(path: Path, rows: list[dict[str, Any]], kind: pa.Schema) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=kind), path)
    return str(path)


def random_boxes(count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(0)
    low = rng.integers(0, (8, 6), (count, 2)) * 4
    high = low + rng.integers(5, 9, (count, 2)) * 4
    return [(int(a), int(b), int(c), int(d)) for (a, b), (c, d) in zip(low, high, strict=True)]


def score(tmp_path: Path, labels: list[dict], notes: list[dict]) -> dict[str, dict[str, float]]:
    """The metrics, without Ray: one task's work, on this process."""
    write(tmp_path / "labels/a.parquet", labels, schema.LABELS)
    write(tmp_path / "shards/a.parquet", notes, schema.SHARD)
    found = inputs.plan([str(tmp_path / "labels")], allow_incomplete=True)
    annotations = inputs.read_annotations([str(tmp_path / "shards")])
    tally = Tally.empty()
    for unit in found.units:
        for row in inputs.read_unit(unit, annotations):
            tally.add(row)
    return summarise(tally, found.method)


def test_maps_on_the_objects_score_full_marks(tmp_path: Path):
    found = random_boxes(12)
    metrics = score(
        tmp_path,
        [label_row(str(i), object_map(box)) for i, box in enumerate(found)],
        [note_row(str(i), box) for i, box in enumerate(found)],
    )
    for name in ("gt_known_loc", "oracle_gt_known_loc", "max_box_acc", "stored_gt_known_loc"):
        assert metrics["c2am"][name] == 100
    assert metrics["c2am"]["max_box_acc_v2"] == 100
    assert 0 < metrics["centre"]["oracle_gt_known_loc"] < 100
    assert "pxap" not in metrics["c2am"] and "cor_loc" not in metrics["c2am"]


def test_errors_count_as_wrong_for_the_labels_alone(tmp_path: Path):
    middle = (20, 12, 60, 48)
    labels = [label_row(str(i), object_map(middle)) for i in range(9)]
    labels.append(label_row("9", None, error="truncated JPEG", width=None, height=None))
    metrics = score(tmp_path, labels, [note_row(str(i), middle) for i in range(10)])
    assert metrics["c2am"]["num_errors"] == 1
    assert metrics["c2am"]["gt_known_loc"] == metrics["c2am"]["stored_gt_known_loc"] == 90
    assert metrics["centre"]["gt_known_loc"] == 100


def test_constant_map_and_row_without_box_are_wrong_not_fatal(tmp_path: Path):
    labels = [label_row(str(i), np.full((4, 4), 0.5, np.float32)) for i in range(4)]
    metrics = score(tmp_path, labels, [note_row(str(i), (0, 0, 40, 40)) for i in range(4)])
    assert metrics["c2am"]["oracle_gt_known_loc"] == 0
    assert metrics["c2am"]["stored_gt_known_loc"] == 0


def test_labels_without_maps_give_stored_figures_only(tmp_path: Path):
    found = random_boxes(4)
    labels = [label_row(str(i), object_map(b), activation_map=None) for i, b in enumerate(found)]
    metrics = score(tmp_path, labels, [note_row(str(i), b) for i, b in enumerate(found)])
    assert metrics["c2am"]["stored_gt_known_loc"] == 100
    assert "gt_known_loc" not in metrics["c2am"] and "gt_known_loc" in metrics["centre"]


def test_labels_of_which_some_lack_maps_are_refused(tmp_path: Path):
    box = (0, 0, 40, 40)
    labels = [label_row("a", object_map(box)), label_row("b", object_map(box), activation_map=None)]
    with pytest.raises(ValueError, match="1 of 2 labels lack an activation map"):
        score(tmp_path, labels, [note_row("a", box), note_row("b", box)])


def test_images_without_known_boxes_are_left_out_and_counted(tmp_path: Path):
    box = (0, 0, 40, 40)
    labels = [label_row(name, object_map(box)) for name in "abc"]
    notes = [note_row("a", box), note_row("b"), note_row("c", boxes=None)]
    metrics = score(tmp_path, labels, notes)
    assert metrics["c2am"]["num_images"] == 1 and metrics["c2am"]["num_without_boxes"] == 2


def test_any_of_several_annotated_boxes_counts(tmp_path: Path):
    box = (40, 20, 72, 52)
    metrics = score(tmp_path, [label_row("a", object_map(box))], [note_row("a", (0, 0, 4, 4), box)])
    assert metrics["c2am"]["stored_gt_known_loc"] == 100


def test_masks_give_pxap_and_training_images_cor_loc(tmp_path: Path):
    box = (20, 12, 60, 48)
    mask = np.zeros(SIZE, np.uint8)
    mask[12:48, 20:60] = 17
    png = cv2.imencode(".png", mask)[1].tobytes()
    labels = [label_row(str(i), object_map(box)) for i in range(4)]
    notes = [note_row(str(i), box, split="train", mask=png if i else None) for i in range(4)]
    metrics = score(tmp_path, labels, notes)
    assert 90 < metrics["c2am"]["pxap"] <= 100
    assert 50 < metrics["centre"]["pxap"] < metrics["c2am"]["pxap"]
    assert metrics["c2am"]["cor_loc"] == metrics["c2am"]["gt_known_loc"] == 100


def test_honest_threshold_comes_from_the_other_half(tmp_path: Path):
    # In one half only thresholds below 0.4 are right, in the other only those above: whatever
    # is best on one fails on the other, and an oracle gets the larger half.
    inner, outer = (28, 20, 52, 40), (4, 4, 76, 56)
    activation = np.maximum(0.4 * (object_map(outer) > 0.5), object_map(inner) > 0.5)
    activation = activation.astype(np.float32)
    names = [str(i) for i in range(12)]
    halves = [half_of(name) for name in names]
    assert 0 < sum(halves) < 12
    metrics = score(
        tmp_path,
        [label_row(name, activation) for name in names],
        [note_row(n, inner if half else outer) for n, half in zip(names, halves, strict=True)],
    )
    larger = max(sum(halves), 12 - sum(halves))
    assert metrics["c2am"]["gt_known_loc"] == 0
    assert metrics["c2am"]["oracle_gt_known_loc"] == pytest.approx(100 * larger / 12)


def test_halves_follow_from_the_sha256_of_the_id():
    digest = hashlib.sha256(b"val_8302").digest()
    assert half_of("val_8302") == digest[-1] % 2
    assert 400 < sum(half_of(str(i)) for i in range(1000)) < 600


def test_label_of_another_size_than_the_annotation_is_refused(tmp_path: Path):
    labels = [label_row("a", object_map((0, 0, 40, 40)), width=40, height=30)]
    with pytest.raises(ValueError, match=r"image 'a': the label says .*\(30, 40\)"):
        score(tmp_path, labels, [note_row("a", (0, 0, 40, 40))])


def test_undecodable_map_names_the_image(tmp_path: Path):
    labels = [label_row("a", object_map((0, 0, 40, 40)), activation_map=b"\x89PNG broken")]
    with pytest.raises(ValueError, match="image 'a': not a 16-bit grayscale PNG"):
        score(tmp_path, labels, [note_row("a", (0, 0, 40, 40))])


@pytest.mark.parametrize("column", ["image_id", "pseudo_boxes", "error", "width"])
def test_labels_without_a_column_are_refused_by_name(tmp_path: Path, column: str):
    table = pa.Table.from_pylist([label_row("a", None)], schema=schema.LABELS)
    pq.write_table(table.drop_columns([column]), tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=rf"bad\.parquet: column '{column}' is missing"):
        inputs.plan([str(tmp_path)], allow_incomplete=True)


def test_label_column_of_another_type_is_refused_by_name(tmp_path: Path):
    table = pa.Table.from_pylist([label_row("a", None)], schema=schema.LABELS)
    index = table.schema.get_field_index("activation_map")
    table = table.set_column(index, "activation_map", pa.array([1.5]))
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet: column 'activation_map' is double"):
        inputs.plan([str(tmp_path)], allow_incomplete=True)


def test_annotations_without_boxes_column_are_refused_by_name(tmp_path: Path):
    table = pa.Table.from_pylist([note_row("a")], schema=schema.SHARD).drop_columns(["boxes"])
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet: column 'boxes' is missing"):
        inputs.read_annotations([str(tmp_path)])


def test_duplicate_ids_are_refused_by_name(tmp_path: Path):
    write(tmp_path / "l/a.parquet", [label_row("twin", None)], schema.LABELS)
    write(tmp_path / "l/b.parquet", [label_row("twin", None)], schema.LABELS)
    write(tmp_path / "s/a.parquet", [note_row("x"), note_row("x")], schema.SHARD)
    with pytest.raises(ValueError, match="'twin' comes more than once"):
        inputs.plan([str(tmp_path / "l")], allow_incomplete=True)
    with pytest.raises(ValueError, match="'x' comes more than once"):
        inputs.read_annotations([str(tmp_path / "s")])


def test_missing_path_empty_set_and_other_files_are_refused_by_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        inputs.plan([str(tmp_path / "nowhere")], allow_incomplete=True)
    write(tmp_path / "empty.parquet", [], schema.LABELS)
    with pytest.raises(ValueError, match=r"empty\.parquet: the label files hold no row"):
        inputs.plan([str(tmp_path / "empty.parquet")], allow_incomplete=True)
    (tmp_path / "text.parquet").write_text("no Parquet here")
    with pytest.raises(ValueError, match=r"text\.parquet: not a Parquet file"):
        inputs.plan([str(tmp_path / "text.parquet")], allow_incomplete=True)


@pytest.mark.parametrize("field", ["labels", "annotations", "output"])
def test_field_not_given_is_named(field: str):
    given = {"labels": ("l",), "annotations": ("s",), "output": "m.json"} | {field: ""}
    with pytest.raises(ValueError, match=f"--{field}"):
        evaluate(EvaluateConfig(**given))  # type: ignore


def write_set(tmp_path: Path) -> EvaluateConfig:
    """Two label files and two shards, with a row too many on each side."""
    found = random_boxes(40)
    labels = [label_row(f"im{i}", object_map(box)) for i, box in enumerate(found)]
    notes = [note_row(f"im{i}", box) for i, box in enumerate(found)]
    write(tmp_path / "labels/a.parquet", labels[:25], schema.LABELS)
    write(tmp_path / "labels/b.parquet", labels[25:-1], schema.LABELS)
    extra_columns = pa.schema([*schema.SHARD, pa.field("label_index", pa.int32())])
    lacking = pa.schema([f for f in schema.SHARD if f.name not in ("split", "mask")])
    write(tmp_path / "shards/a.parquet", notes[20:], extra_columns)
    write(tmp_path / "shards/b.parquet", notes[1:20], lacking)
    return EvaluateConfig(
        labels=(str(tmp_path / "labels/*.parquet"),),
        annotations=(str(tmp_path / "shards"),),
        output=str(tmp_path / "out/metrics.json"),
        store_threshold=str(tmp_path / "checkpoint"),
    )


def test_job_joins_files_and_writes_json_table_and_threshold(tmp_path: Path, ray_cluster: None):
    config = write_set(tmp_path)
    metrics = evaluate(config)
    assert metrics == json.loads(Path(config.output).read_text())
    assert metrics["c2am"]["num_images"] == metrics["centre"]["num_images"] == 38
    assert metrics["c2am"]["num_missing"] == metrics["c2am"]["num_extra"] == 1
    assert metrics["c2am"]["gt_known_loc"] == 100
    table = (tmp_path / "out/metrics.md").read_text()
    curves = json.loads((tmp_path / "out/metrics.curves.json").read_text())
    assert max(curves["c2am"]["max_box_acc"]["50"]) == metrics["c2am"]["oracle_gt_known_loc"]
    assert curves["config"]["output"] == config.output
    assert table == markdown(metrics) and "| gt_known_loc | 100.0 |" in table
    stored = json.loads((tmp_path / "checkpoint/threshold.json").read_text())
    assert stored["threshold"] == metrics["c2am"]["oracle_threshold"]
    assert stored["num_images"] == 38 and stored["gt_known_loc"] == 100


def test_job_refuses_sets_that_share_no_image(tmp_path: Path, ray_cluster: None):
    write(tmp_path / "l/a.parquet", [label_row("a", None, error="bad")], schema.LABELS)
    write(tmp_path / "s/a.parquet", [note_row("b", (0, 0, 4, 4))], schema.SHARD)
    config = EvaluateConfig(
        labels=(str(tmp_path / "l/*"),), annotations=(str(tmp_path / "s"),), output="m.json"
    )
    with pytest.raises(ValueError, match=r"no row of .* is of an image with boxes"):
        evaluate(config)


def test_job_refuses_labels_that_are_not_finished(tmp_path: Path):
    config = write_set(tmp_path)
    config = dataclasses.replace(config, labels=(str(tmp_path / "labels"),))
    with pytest.raises(ValueError, match=r"labels: no _SUCCESS, so labeling has not finished"):
        evaluate(config)


def test_job_names_a_missing_path(tmp_path: Path):
    config = EvaluateConfig(labels=(str(tmp_path / "nowhere"),), annotations=("s",), output="m")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        evaluate(config)


def test_command_refuses_an_unknown_flag_and_suggests_the_right_one():
    command = [sys.executable, "jobs/evaluate.py", "--lables", "x"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--lables" in done.stderr and "--labels" in done.stderr
