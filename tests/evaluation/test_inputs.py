"""What evaluation is given: predictions joined by image_id, methods, and inputs it refuses."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.data import label_set
from c2am_dist.evaluation import inputs, predictions
from c2am_dist.evaluation.outcomes import FAILED, WRONG
from tests.evaluation.sets import Rows, prediction_row, write_labels
from tests.test_evaluation import label_row, note_row, object_map, write

BOX = (0, 0, 40, 40)


def annotations_of(root: Path, notes: Rows) -> inputs.Annotations:
    write(root / "shards/a.parquet", list(notes)[:2], schema.SHARD)
    write(root / "shards/b.parquet", list(notes)[2:], schema.SHARD)
    return inputs.read_annotations([str(root / "shards")], with_classes=True)


def joined(root: Path, notes: Rows, *files: Rows) -> tuple[inputs.Annotations, pa.ChunkedArray]:
    for number, rows in enumerate(files):
        write(root / f"predictions/{number}.parquet", list(rows), schema.PREDICTIONS)
    return predictions.join(
        [str(root / "predictions")], annotations_of(root, notes), allow_incomplete=True
    )


def test_predictions_are_joined_by_id_across_files_in_any_order(tmp_path: Path):
    notes = [note_row(name, BOX, label=label) for name, label in zip("abcde", "xyzxx", strict=True)]
    found, ids = joined(
        tmp_path,
        notes,
        [prediction_row("d", "y", "x"), prediction_row("extra", "x"), prediction_row("b", "x")],
        [],
        [prediction_row("c", error="bad"), prediction_row("a", "v", "w", "x", "x")],
    )
    rows = found.table.to_pylist()
    ranks = {row["image_id"]: row["class_rank"] for row in rows}
    assert ranks == {"a": 2, "b": WRONG, "c": FAILED, "d": 1, "e": None}
    assert found.classes == ("x", "y", "z")
    assert found.table["class_index"].to_pylist() == [0, 1, 2, 0, 0]
    known = found.table["image_id"]
    assert inputs.count_absent(known, ids) == inputs.count_absent(ids, known) == 1


def test_images_without_a_label_are_no_class_and_never_right(tmp_path: Path):
    notes = [note_row("a", label=None), note_row("b", BOX, label="x"), note_row("c", BOX)]
    found, _ = joined(tmp_path, notes, [prediction_row(name, "x") for name in "abc"])
    assert found.table["class_index"].to_pylist() == [None, 0, None]
    assert found.table["class_rank"].to_pylist() == [WRONG, 0, WRONG]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "predictions: the prediction files hold no row"),
        ([("other", "x")], r"none of 1 predictions, such as of 'other', is of an annotated image"),
        ([("a", "dog")], r"column 'classes' holds no label of the annotations, such as \('x',\)"),
        ([("a", "x"), ("a", "x")], "image_id 'a' comes more than once"),
        ([("a", "x"), ("b",)], r"0\.parquet: image 'b' has neither classes nor error"),
    ],
)
def test_predictions_that_make_no_sense_are_refused_by_name(
    tmp_path: Path, rows: list[tuple[str, ...]], message: str
):
    notes = [note_row("a", BOX, label="x"), note_row("b", BOX, label="x")]
    with pytest.raises(ValueError, match=message):
        joined(tmp_path, notes, [prediction_row(*row) for row in rows])


@pytest.mark.parametrize(("listed", "is_short"), [("x", True), ("xy", True), ("xyz", False)])
def test_rows_that_list_too_few_classes_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: str, is_short: bool
):
    notes = [note_row(name, BOX, label=name) for name in "xyz"]
    joined(tmp_path, notes, [prediction_row("x", *listed), prediction_row("y", error="bad")])
    assert (f"list {len(listed)} of at least 3 classes" in caplog.text) == is_short


@pytest.mark.parametrize("column", ["image_id", "classes", "error"])
def test_predictions_without_a_column_or_of_another_type_are_refused_by_name(
    tmp_path: Path, column: str
):
    known = annotations_of(tmp_path, [note_row("a", BOX, label="x")])
    table = pa.Table.from_pylist([prediction_row("a", "x")], schema=schema.PREDICTIONS)
    path = tmp_path / "bad.parquet"
    pq.write_table(table.drop_columns([column]), path)
    with pytest.raises(ValueError, match=rf"bad\.parquet: column '{column}' is missing"):
        predictions.join([str(path)], known, allow_incomplete=True)
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array([1.5])), path)
    with pytest.raises(ValueError, match=rf"bad\.parquet: column '{column}' is double"):
        predictions.join([str(path)], known, allow_incomplete=True)


def test_unfinished_predictions_are_refused_unless_told(tmp_path: Path):
    folder = tmp_path / "predictions"
    known = annotations_of(tmp_path, [note_row("a", BOX, label="x")])
    label_set.begin(str(folder), {})
    write(folder / "0.parquet", [prediction_row("a", "x")], schema.PREDICTIONS)
    with pytest.raises(ValueError, match="predictions: no _SUCCESS"):
        predictions.join([str(folder)], known, allow_incomplete=False)
    found, _ = predictions.join([str(folder)], known, allow_incomplete=True)
    assert found.table["class_rank"].to_pylist() == [0]


def test_a_scored_image_without_label_is_named_with_its_shard(tmp_path: Path):
    notes = [
        note_row("a", BOX, label="x"),
        note_row("no boxes", label=None),
        note_row("not labeled", BOX, label=None),
        note_row("nameless", BOX, label=None),
    ]
    annotations = annotations_of(tmp_path, notes)
    inputs.refuse_unlabeled(annotations, pa.chunked_array([["a", "no boxes"]]))
    with pytest.raises(ValueError, match=r"shards/b\.parquet: image 'nameless' has no label"):
        inputs.refuse_unlabeled(annotations, pa.chunked_array([["a", "nameless"]]))


def test_shards_without_a_label_column_are_refused_when_classes_are_asked_for(tmp_path: Path):
    lacking = pa.schema([field for field in schema.SHARD if field.name != "label"])
    write(tmp_path / "s/a.parquet", [note_row("a", BOX)], lacking)
    assert inputs.read_annotations([str(tmp_path / "s")]).classes == ()
    with pytest.raises(ValueError, match=r"a\.parquet: column 'label' is missing"):
        inputs.read_annotations([str(tmp_path / "s")], with_classes=True)


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 20], [5, 5, 20, 5], [9, 5, 5, 20], [0, 0, 0, 0], None, [1, None, 3, 4]]
)
def test_an_annotated_box_without_area_is_named_with_its_image(tmp_path: Path, box: Any):
    notes = [
        note_row("a", BOX, BOX),
        note_row("b", boxes=None),
        note_row("c", boxes=[]),
        note_row("flat", boxes=[list(BOX), box]),
    ]
    with pytest.raises(ValueError, match=r"b\.parquet: image 'flat': the annotated box .* no area"):
        annotations_of(tmp_path, notes)


def test_method_is_the_metadatas_and_that_of_older_files_is_c2am(tmp_path: Path):
    row = label_row("a", object_map(BOX))
    write_labels(tmp_path / "new.parquet", [row], "psol")
    write_labels(tmp_path / "old.parquet", [label_row("b", None)])
    for name, method in (("new", "psol"), ("old", "c2am")):
        uris = [str(tmp_path / f"{name}.parquet")]
        assert inputs.plan(uris, allow_incomplete=True).method == method
    with pytest.raises(ValueError, match=r"old\.parquet: labels of method 'c2am', but .*'psol'"):
        inputs.plan([str(tmp_path / "*.parquet")], allow_incomplete=True)


@pytest.mark.parametrize("name", ["centre", "predictions", "", "a|b", "A", "x" * 40, "\x1b[2J"])
def test_a_method_that_is_none_is_refused_by_name(tmp_path: Path, name: str):
    write_labels(tmp_path / "a.parquet", [label_row("a", None)], name)
    with pytest.raises(ValueError, match=r"a\.parquet: metadata c2am_dist\.method is"):
        inputs.plan([str(tmp_path)], allow_incomplete=True)
