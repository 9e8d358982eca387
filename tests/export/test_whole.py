"""An export is whole or not there, and the same again; what the job prints."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from c2am_dist import storage
from c2am_dist.config import ExportConfig
from c2am_dist.export import export
from tests.export.sets import FORMATS, files, run
from tests.files import ROOT

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
