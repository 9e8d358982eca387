"""Which boxes and images are exported; labels and images that do not fit."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from tests.export.sets import FORMATS, SET, files, kept, run, scored
from tests.labeled import write_set

# Which boxes and images


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"one": [0.9], "two": [0.8, 0.95], "none": [], "weak": [0.1, 0.2, 0.3]}),
        ({"max_boxes": 1}, {"one": [0.9], "two": [0.8], "none": [], "weak": [0.1]}),
        # 0.9 is stored as a float32 that is less than 0.9.
        ({"min_score": 0.9}, {"one": [0.9], "two": [0.95], "none": []}),
        ({"min_score": 0.9, "max_boxes": 1}, {"one": [0.9], "none": []}),
        ({"min_score": 0.9, "keep_empty": "none"}, {"one": [0.9], "two": [0.95]}),
        ({"min_score": 0.9, "keep_empty": "all"},
         {"one": [0.9], "two": [0.95], "none": [], "weak": []}),
        ({"quantile": 0.5}, {"one": [0.9], "two": [0.8, 0.95], "none": []}),
        ({"quantile": 0.34}, {"one": [0.9], "two": [0.8, 0.95], "none": []}),
        ({"quantile": 1 / 3}, {"one": [0.9], "two": [0.95], "none": []}),
        ({"quantile": 0.01}, {"two": [0.95], "none": []}),
        ({"quantile": 1.0},
         {"one": [0.9], "two": [0.8, 0.95], "none": [], "weak": [0.1, 0.2, 0.3]}),
        ({"quantile": 0.5, "max_boxes": 1}, {"one": [0.9], "two": [0.8], "none": []}),
        ({"quantile": 0.5, "min_score": 0.25}, {"one": [0.9], "two": [0.95], "none": []}),
    ],
)  # fmt: skip
def test_flags_keep_the_best_boxes(
    inputs: dict[str, Any],
    tmp_path: Path,
    options: dict[str, Any],
    expected: dict[str, list[float]],
):
    report = run(inputs, tmp_path / "out", **options)
    assert kept(tmp_path / "out") == expected
    assert report.num_images == len(expected)
    assert report.num_boxes == sum(map(len, expected.values()))
    assert report.num_empty == sum(not scores for scores in expected.values())
    assert report.num_errors == 1
    assert report.num_images + report.num_left_out + report.num_errors == len(SET)


def test_boxes_of_one_score_stay_together(tmp_path: Path):
    inputs = write_set(tmp_path, {"a": scored(0.5), "b": scored(0.5), "c": scored(0.1)})
    report = run(inputs, tmp_path / "out", quantile=0.3)
    assert kept(tmp_path / "out") == {"a": [0.5], "b": [0.5]}
    assert report.min_score == 0.5


def test_an_export_of_nothing_is_refused(inputs: dict[str, Any], tmp_path: Path):
    for kind in FORMATS:
        out = tmp_path / kind
        with pytest.raises(ValueError, match="no image is left to export"):
            run(inputs, out, format=kind, min_score=1.0, keep_empty="none")
        assert files(out).keys() == {"_plan.json"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_score": float("nan")}, "min_score"),
        ({"quantile": 0.0}, "quantile"),
        ({"max_boxes": 0}, "max_boxes"),
        ({"split": "../x"}, "split"),
        ({"category_name": "a\nb"}, "category_name"),
        ({"image_suffix": "/../x"}, "image_suffix"),
        ({"format": "webdataset", "with_images": False}, "with_images"),
        ({"images": ()}, "images must be given"),
    ],
)
def test_a_bad_setting_is_named(
    inputs: dict[str, Any], tmp_path: Path, options: dict[str, Any], named: str
):
    with pytest.raises(ValueError, match=named):
        run(inputs, tmp_path / "out", **options)


# Labels and images that do not fit


def _rewrite(folder: Path, arrow_schema: pa.Schema, change: Any) -> None:
    for path in sorted(folder.glob("*.parquet")):
        rows = [change(row) for row in pq.read_table(path).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, arrow_schema), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": "gone.parquet"}, r"'one': .*no such image in a shard 'gone\.parquet'"),
        ({"width": 80}, r"'one': labeled at 80x30 px, but .* it is 40x30"),
        ({"image_id": "two"}, "image_id 'two' comes a second time"),
        ({"width": None}, "'one': a label without error must have width"),
        ({"pseudo_boxes": [{"x0": 5, "y0": 0, "x1": 41, "y1": 9, "score": 0.5}]}, "'one': Box"),
        ({"pseudo_boxes": [{"x0": 5, "y0": 0, "x1": 5, "y1": 9, "score": 0.5}]}, "'one': Box"),
        ({"pseudo_boxes": [{"x0": 5, "y0": 0, "x1": 9, "y1": 9, "score": 2.0}]}, "'one': Box"),
        (
            {"pseudo_boxes": [{"x0": 5, "y0": 0, "x1": 9, "y1": 9, "score": float("nan")}]},
            "'one': Box",
        ),
    ],
)
def test_a_label_that_cannot_be_right_is_named(
    inputs: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
):
    _rewrite(
        tmp_path / "labels",
        schema.LABELS,
        lambda row: row | (change if row["image_id"] == "one" else {}),
    )
    for kind in ("coco", "yolo"):
        with pytest.raises(ValueError, match=message):
            run(inputs | {"labels": (f"{tmp_path}/labels/*",)}, tmp_path / kind, format=kind)
        assert not (tmp_path / kind / "_SUCCESS").exists()


def test_rows_in_any_order_find_their_images(inputs: dict[str, Any], tmp_path: Path):
    tables = [pq.read_table(path) for path in sorted((tmp_path / "labels").glob("*.parquet"))]
    order = [4, 2, 0, 3, 1]
    pq.write_table(pa.concat_tables(tables).take(order), tmp_path / "all.parquet")
    run(inputs | {"labels": (f"{tmp_path}/all.parquet",)}, tmp_path / "out")
    expected = [list(SET)[index] for index in order if list(SET)[index] != "broken"]
    assert list(kept(tmp_path / "out")) == expected


def test_shards_of_one_name_in_two_folders_are_both_looked_into(tmp_path: Path):
    for part in ("a", "b"):
        write_set(tmp_path / part, {f"{part}{i}": scored(0.5) for i in range(3)})
    inputs = {
        "labels": (f"{tmp_path}/a/labels", f"{tmp_path}/b/labels"),
        "images": (f"{tmp_path}/a/shards", f"{tmp_path}/b/shards"),
    }
    assert run(inputs, tmp_path / "out").num_images == 6
    assert list(kept(tmp_path / "out")) == ["a0", "a1", "a2", "b0", "b1", "b2"]
