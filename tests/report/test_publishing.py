"""Where a report goes, whole or not at all."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from c2am_dist import storage
from c2am_dist.method import images
from c2am_dist.report import write_report
from jobs import report as job
from tests.report.pages import Parsed, make, of
from tests.report.sets import write_set


def test_a_report_is_one_page_and_one_folder_of_its_files(tmp_path: Path):
    made = write_set(tmp_path, 3)
    make(tmp_path / "report", **of(made))
    first = sorted(path.name for path in (tmp_path / "report").iterdir())
    make(tmp_path / "report", **of(made))
    second = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert len(first) == len(second) == 2 and first[1] == second[1] == "index.html"
    assert first[0] != second[0], "a new report has files of its own"
    assert second[0] in (tmp_path / "report" / "index.html").read_text()


def test_a_report_that_fails_leaves_the_one_before_whole(tmp_path: Path):
    made = write_set(tmp_path, 3)
    make(tmp_path / "report", **of(made))
    before = {
        path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()
    }
    bad = write_set(tmp_path / "bad", 3, label=lambda row: row | {"activation_map": b"no"})
    with pytest.raises(ValueError, match="label of image 'image-00000': not a 16-bit"):
        make(tmp_path / "report", **of(bad))
    after = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert before == after
    with pytest.raises(ValueError):
        make(tmp_path / "new", **of(bad))
    assert not (tmp_path / "new" / "index.html").exists()


def test_what_a_killed_report_left_is_swept_away_by_the_next(tmp_path: Path):
    stale = tmp_path / "report" / "data-0123456789ab" / "images" / "0000"
    stale.mkdir(parents=True)
    (stale / "0000000.jpg").write_bytes(b"")
    make(tmp_path / "report", **of(write_set(tmp_path, 1)))
    assert not stale.exists()


@pytest.mark.parametrize("name", ["notes.txt", "data-x/notes.txt", "data/notes.txt"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str):
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("keep")
    with pytest.raises(ValueError, match=f"holds {name}, which is no part of a report"):
        make(tmp_path / "mine", **of(write_set(tmp_path, 1)))
    assert (tmp_path / "mine" / name).read_text() == "keep"


def test_a_single_file_holds_everything(tmp_path: Path):
    page = make(tmp_path / "report.html", **of(write_set(tmp_path, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "report.html", "shards"]
    assert page.count("data:image/jpeg;base64,") == 3
    tags = Parsed(page).tags
    found = [names.get("src") or names.get("href") for _, names in tags]
    assert not [url for url in found if url and not url.startswith(("#", "data:"))]


def test_the_policy_names_what_the_page_brings_and_nothing_else(tmp_path: Path):
    made = write_set(tmp_path, 3)
    for name in ("report", "report.html"):
        page = make(tmp_path / name, **of(made))
        policy = next(names["content"] for _, names in Parsed(page).tags if "http-equiv" in names)
        assert policy is not None and policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy and "http" not in policy
        for kind in ("script", "style"):
            for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy
    assert "file:" not in policy  # type: ignore


def test_a_report_goes_to_an_object_store(tmp_path: Path, bucket: str):
    made = write_set(tmp_path, 3)
    for _ in range(2):
        write_report(f"{bucket}/report", **of(made))
    names = sorted(file.uri.split("/report/")[1] for file in storage.walk(f"{bucket}/report"))
    assert len(names) == 5 and names[-1] == "index.html"
    page = storage.read_bytes(f"{bucket}/report/index.html").decode()
    assert names[0].partition("/")[0] in page


def test_labels_that_are_not_finished_are_refused(tmp_path: Path):
    made = write_set(tmp_path, 3)
    (tmp_path / "labels" / "_SUCCESS").unlink()
    with pytest.raises(ValueError, match="labeling has not finished"):
        make(tmp_path / "report", **of(made))
    assert "All 3 images" in make(tmp_path / "report", **of(made), allow_incomplete=True)


def test_something_must_be_given(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing to report on"):
        make(tmp_path / "report")
    with pytest.raises(ValueError, match="give labels, too"):
        make(tmp_path / "report", images=["x"], run="y")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(tmp_path / "report", run=str(tmp_path / "nowhere"))


def test_the_name_of_the_output_tells_what_is_written(tmp_path: Path):
    made = write_set(tmp_path, 2)
    inputs: Any = {"labels": (made.labels,), "images": (made.images,)}
    for name in ("sheet.png", "one.html", "folder"):
        job.report(**inputs, output=str(tmp_path / name))
    assert images.header((tmp_path / "sheet.png").read_bytes())[0] > 300
    assert (tmp_path / "one.html").is_file() and (tmp_path / "folder" / "index.html").is_file()
    with pytest.raises(ValueError, match="a contact sheet shows labels alone"):
        job.report(**inputs, run="runs/a", output=str(tmp_path / "sheet.png"))
    with pytest.raises(ValueError, match="images must be given"):
        job.report(labels=(made.labels,), output=str(tmp_path / "sheet.png"))
