"""What every export has in common: its boxes and images, their names, whole or not."""

import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from c2am_dist import names, schema, storage
from c2am_dist.config import ExportConfig
from c2am_dist.export import ExportReport, export
from tests.labeled import Box, Labeled, picture, write_set

ROOT = Path(__file__).resolve().parents[1]
JPEG = picture()
FORMATS = ("coco", "yolo", "voc", "label-studio", "fiftyone", "webdataset", "masks")


def scored(*scores: float) -> Labeled:
    """An image with boxes of these scores, side by side."""
    boxes: list[Box] = [(5 * i, 2, 5 * i + 4, 9, score) for i, score in enumerate(scores)]
    return Labeled(JPEG, boxes)


SET = {
    "one": scored(0.9),
    "two": scored(0.8, 0.95),
    "none": Labeled(JPEG),
    "weak": scored(0.1, 0.2, 0.3),
    "broken": Labeled(b"", error="empty file"),
}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return write_set(tmp_path, SET)


def run(inputs: dict[str, Any], output: Path, **options: Any) -> ExportReport:
    return export(ExportConfig(**(inputs | {"output": str(output)} | options)))


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def kept(output: Path) -> dict[str, list[float]]:
    """The scores of each image of a COCO export."""
    content = json.loads((output / "annotations/instances_train.json").read_bytes())
    scores: dict[int, list[float]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        scores[annotation["image_id"]].append(round(annotation["score"], 3))
    return {image["image_id"]: scores[image["id"]] for image in content["images"]}


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


# Whole or not, and the same again


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_labels_give_the_same_bytes(inputs: dict[str, Any], tmp_path: Path, kind: str):
    first, second = tmp_path / "first", tmp_path / "second"
    run(inputs, first, format=kind)
    run(inputs, second, format=kind)
    assert files(first) == files(second)
    assert {"_SUCCESS", "_plan.json"} < files(first).keys()


def test_a_finished_export_stays_as_it_is(
    inputs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    first = run(inputs, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(inputs, out) == first
    assert "already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_export_that_was_cut_off_is_written_again(inputs: dict[str, Any], tmp_path: Path):
    out = tmp_path / "out"
    run(inputs, out)
    whole = files(out)
    (out / "_SUCCESS").unlink()
    (out / "images/one.jpg").unlink()
    (out / ".0123.partial").write_bytes(b"of a killed writer")
    run(inputs, out)
    assert files(out) == whole


def test_an_output_with_something_else_is_refused(inputs: dict[str, Any], tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("not yours")
    with pytest.raises(ValueError, match=r"mine: must not hold files yet, found notes\.txt"):
        run(inputs, tmp_path / "mine")
    run(inputs, tmp_path / "out")
    with pytest.raises(ValueError, match="out: holds files of another job: export was coco"):
        run(inputs, tmp_path / "out", format="yolo")
    with pytest.raises(ValueError, match="labels: holds files of another job"):
        run(inputs, tmp_path / "labels")
    assert files(tmp_path / "mine") == {"notes.txt": b"not yours"}


def test_unfinished_labels_are_refused_unless_told_otherwise(
    inputs: dict[str, Any], tmp_path: Path
):
    (tmp_path / "labels/_SUCCESS").unlink()
    with pytest.raises(ValueError, match="labels: no _SUCCESS"):
        run(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(inputs, tmp_path / "out", allow_incomplete=True).num_images == 4


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_cannot_be_written_is_named_and_leaves_no_success(
    inputs: dict[str, Any], tmp_path: Path, kind: str
):
    run(inputs, tmp_path / "whole", format=kind)
    name = next(n for n in files(tmp_path / "whole") if n.endswith((".jpg", ".tar")))
    (tmp_path / "out" / name).mkdir(parents=True)  # where the file belongs
    with pytest.raises(OSError, match=re.escape(name)):
        run(inputs, tmp_path / "out", format=kind)
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_an_object_store_gets_the_same_files(inputs: dict[str, Any], tmp_path: Path, bucket: str):
    run(inputs, tmp_path / "out")
    export(ExportConfig(**inputs, output=f"{bucket}/out"))
    local = files(tmp_path / "out")
    found = {file.uri.removeprefix(f"{bucket}/out/") for file in storage.walk(f"{bucket}/out")}
    assert found == local.keys()
    assert {name: storage.read_bytes(f"{bucket}/out/{name}") for name in local} == local


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


# Image files


def test_upright_jpeg_and_png_files_stay_the_bytes_they_are(tmp_path: Path):
    png = picture(kind="PNG")
    run(write_set(tmp_path, {"j": Labeled(JPEG), "p": Labeled(png)}), tmp_path / "out")
    written = files(tmp_path / "out")
    assert (written["images/j.jpg"], written["images/p.png"]) == (JPEG, png)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "png")])
def test_a_turned_image_is_written_upright(tmp_path: Path, kind: str, suffix: str):
    """A reader that ignores EXIF and one that heeds it see the image that the boxes are of."""
    size = (64, 96)
    labeled = Labeled(picture(size, kind, orientation=6), [(0, 0, 48, 32, 0.5)], size=size)
    report = run(write_set(tmp_path, {"turned": labeled}), tmp_path / "out")
    assert report.num_rewritten == 1
    image = Image.open(tmp_path / f"out/images/turned.{suffix}")
    assert image.size == (96, 64)
    assert 0x0112 not in image.getexif()
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert abs(pixels[:30, :46] - (220, 20, 20)).max() < 12
    assert abs(pixels[34:] - 128).max() < 12
    (entry,) = json.loads((tmp_path / "out/annotations/instances_train.json").read_bytes())[
        "images"
    ]
    assert (entry["width"], entry["height"]) == image.size


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_what_not_all_tools_read_becomes_png(tmp_path: Path, kind: str):
    data = picture(kind=kind)
    report = run(write_set(tmp_path, {"x": Labeled(data)}), tmp_path / "out")
    assert report.num_rewritten == 1
    written = np.asarray(Image.open(tmp_path / "out/images/x.png"))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(written, expected)


def test_an_image_that_cannot_be_turned_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cut_off = picture(orientation=6)[:-200]
    inputs = write_set(tmp_path, {"good": scored(0.5), "cut": Labeled(cut_off)})
    report = run(inputs, tmp_path / "out")
    assert (report.num_images, report.num_errors) == (1, 1)
    assert "cut: not exported: unreadable JPEG" in caplog.text


def test_without_images_no_shard_is_read_and_files_are_called_by_id(tmp_path: Path):
    inputs = write_set(tmp_path, {"a b/é.1": scored(0.5)}) | {"images": ()}
    out = tmp_path / "out"
    run(inputs, out, with_images=False, image_suffix=".JPEG")
    (entry,) = json.loads((out / "annotations/instances_train.json").read_bytes())["images"]
    assert entry["file_name"] == "a b/é.1.JPEG"
    assert files(out).keys() == {"_plan.json", "_SUCCESS", "annotations/instances_train.json"}


def test_without_images_a_name_that_leads_elsewhere_is_refused(tmp_path: Path):
    inputs = write_set(tmp_path, {"../x": scored(0.5)})
    with pytest.raises(ValueError, match=r"image_id '\.\./x' must be a relative path"):
        run(inputs, tmp_path / "out", with_images=False, format="yolo")
    assert not (tmp_path / "x.txt").exists()


# Names

NASTY = [
    "a", "A b", "a/b", "a//b", "a/", "/a", "..", "../a", "a/../b", ".a", "a.", "a.b.c", "a.jpg/b",
    "a~2eb", "a~b", "~0", "é", "e\u0301", "日本/語", "a\\b", "C:x", "a\tb", "a\nb", "", " ", "%2e",
    "x" * 300, "x" * 301, "é" * 300, "y/" + "z" * 255, "CON?*<>|:\"'", "#?&=+;", "images/images/a",
]  # fmt: skip


def test_every_id_becomes_a_path_of_its_own_that_every_tool_takes():
    for keep_dots in (True, False):
        paths = {image_id: names.file_path(image_id, keep_dots=keep_dots) for image_id in NASTY}
        for one, other in itertools.combinations(NASTY, 2):
            assert paths[one] != paths[other], (one, other)
        for path in paths.values():
            assert re.fullmatch(r"[A-Za-z0-9_.~/-]+", path)
            parts = f"{path}.jpg".split("/")
            assert not any(part.startswith(".") or part in ("", "..") for part in parts)
            assert max(map(len, parts)) <= 204
        files = {f"{path}.jpg" for path in paths.values()}
        folders = {"/".join(path.split("/")[:-1]) for path in files}
        assert not files & folders, "a file is called like a folder"


def test_an_ordinary_id_is_its_own_path():
    assert names.file_path("n01440764/ILSVRC2012_val_00000001-x.y") == (
        "n01440764/ILSVRC2012_val_00000001-x.y"
    )
    assert names.file_path("a b") == "a~20b"
    assert names.file_path("a.b", keep_dots=False) == "a~2eb"


@pytest.mark.parametrize("kind", FORMATS)
def test_images_with_nasty_ids_are_all_there_and_nowhere_else(tmp_path: Path, kind: str):
    inputs = write_set(tmp_path / "in", {image_id: scored(0.5) for image_id in NASTY})
    report = run(inputs, tmp_path / "deep/er/out", format=kind)
    assert report.num_images == len(NASTY)
    outside = [path for path in files(tmp_path) if not path.startswith(("in/", "deep/er/out/"))]
    assert not outside
    if kind != "webdataset":
        images = [p for p in files(tmp_path / "deep/er/out") if p.endswith(".jpg")]
        assert len(images) == len(NASTY)


# The job


def test_the_job_prints_what_it_did(inputs: dict[str, Any], tmp_path: Path):
    arguments = ["--labels", *inputs["labels"], "--images", *inputs["images"]]
    command = [sys.executable, "jobs/export.py", *arguments, "--output", f"{tmp_path}/out"]
    done = subprocess.run(
        [*command, "--min-score", "0.5"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "coco: 3 images, 3 boxes with a score of at least 0.5; 1 images without" in done.stdout
    assert "not exported: 1 images without a box (--keep-empty), 1 with errors" in done.stdout
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert other.returncode == 1
    assert other.stderr.startswith(f"error: {tmp_path}/out: holds files of another job")
    assert len(other.stderr.splitlines()) == 1


def test_the_counts_are_in_the_folder(inputs: dict[str, Any], tmp_path: Path):
    run(inputs, tmp_path / "out", format="voc")
    content = json.loads((tmp_path / "out/_SUCCESS").read_text())
    assert content == {
        "format": 1,
        "export": "voc",
        "num_images": 4,
        "num_boxes": 6,
        "num_empty": 1,
        "num_left_out": 0,
        "num_errors": 1,
        "num_rewritten": 0,
        "min_score": 0.0,
    }
    plan = json.loads((tmp_path / "out/_plan.json").read_text())
    listed = "".join(
        f"{file.uri} {file.size_bytes}\n"
        for folder in ("labels", "shards")
        for file in storage.expand([f"{tmp_path}/{folder}"])
    )
    assert plan["input_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
