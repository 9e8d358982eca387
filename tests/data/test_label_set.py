import json
from pathlib import Path

import pytest

from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile

IDENTITY = {"checkpoint_sha256": "c" * 64, "config_sha256": "d" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished set of two files."""
    folder = tmp_path / "labels"
    label_set.begin(str(folder), IDENTITY)
    files = []
    for name in ("a.parquet", "b/a.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"12345")
        files.append(LabelFile(name, num_rows=3, num_errors=1, size_bytes=5, sha256="e" * 64))
    label_set.seal(str(folder), IDENTITY, files)
    return folder


def test_a_finished_set_gives_its_files(folder: Path):
    names = [file.uri.removeprefix(f"{folder}/") for file in label_set.expand([str(folder)])]
    assert names == ["a.parquet", "b/a.parquet"]


def test_a_set_without_success_is_refused_unless_told_otherwise(folder: Path):
    (folder / "_SUCCESS").unlink()
    for named, num_files in ((f"{folder}", 2), (f"{folder}/*.parquet", 1), (f"{folder}/**", 2)):
        with pytest.raises(ValueError, match="labels: no _SUCCESS"):
            label_set.expand([named])
        assert len(label_set.expand([named], allow_incomplete=True)) == num_files
    with pytest.raises(ValueError, match="labels: no _SUCCESS"):
        label_set.expand([f"{folder}/a.parquet"])


def test_part_of_a_finished_set_or_of_no_set_is_taken_as_it_is(folder: Path, tmp_path: Path):
    assert len(label_set.expand([f"{folder}/*.parquet"])) == 1
    assert len(label_set.expand([f"{folder}/a.parquet", f"{folder}/b/a.parquet"])) == 2
    (tmp_path / "loose.parquet").write_bytes(b"12345")
    assert len(label_set.expand([f"{tmp_path}/loose.parquet"])) == 1


def test_files_that_success_does_not_list_as_they_are_are_named(folder: Path):
    (folder / "b" / "a.parquet").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"b/a\.parquet: 3 bytes, but _SUCCESS lists 5"):
        label_set.expand([str(folder)])
    (folder / "b" / "a.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"b/a\.parquet: listed in _SUCCESS, but not there"):
        label_set.expand([str(folder)])
    (folder / "b" / "a.parquet").write_bytes(b"12345")
    (folder / "c.parquet").write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"c\.parquet: not listed in the _SUCCESS"):
        label_set.expand([str(folder)])


ENTRY = {"name": "a.parquet", "num_rows": 3, "num_errors": 1, "size_bytes": 5, "sha256": "e"}


def listing(**changes: object) -> str:
    return json.dumps({"format": 1, "files": [ENTRY | changes]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"format": 99}',
        '{"format": 1, "files": [{}]}',
        '{"format": 1, "files": {"a": 1}}',
        listing(name="../a.parquet"),
        listing(name="/etc/a.parquet"),
        listing(name=["a.parquet"]),
        listing(num_rows="3"),
        listing(size_bytes=-5),
        listing(more=1),
    ],
)
def test_an_unreadable_success_is_named(folder: Path, text: str):
    (folder / "_SUCCESS").write_text(text)
    with pytest.raises(ValueError, match="labels/_SUCCESS"):
        label_set.expand([str(folder)])


def test_the_same_job_goes_on_and_another_is_refused(folder: Path):
    (folder / "_SUCCESS").unlink()
    label_set.begin(str(folder), IDENTITY)
    other = IDENTITY | {"checkpoint_sha256": "f" * 64}
    with pytest.raises(ValueError, match=f"checkpoint_sha256 was {'c' * 64}, now {'f' * 64}"):
        label_set.begin(str(folder), other)


def test_a_job_that_has_written_no_file_yet_keeps_its_folder(tmp_path: Path):
    label_set.begin(str(tmp_path), IDENTITY)
    plan = (tmp_path / "_plan.json").read_bytes()
    with pytest.raises(ValueError, match=f"begun by another job: config_sha256 was {'d' * 64}"):
        label_set.begin(str(tmp_path), IDENTITY | {"config_sha256": "0"})
    label_set.begin(str(tmp_path), IDENTITY)
    assert (tmp_path / "_plan.json").read_bytes() == plan
