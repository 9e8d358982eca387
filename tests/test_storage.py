"""URIs to files: what a file, a folder, a glob and a list name; whole files or none."""

import errno
import io
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from c2am_dist import retries, storage


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")


def names(files: list[storage.File]) -> list[str]:
    return [storage.name(file.uri) for file in files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    touch(tmp_path / "a.parquet", tmp_path / "deep/er/c.parquet", tmp_path / "deep/b.parquet")
    touch(tmp_path / "errors.parquet", tmp_path / "_meta/x.parquet", tmp_path / ".tmp/y.parquet")
    touch(tmp_path / "notes.txt", tmp_path / "deep/_z.parquet", tmp_path / "deep/.w.parquet")
    return tmp_path


def test_a_folder_names_its_data_files_recursively(tree: Path):
    files = storage.expand([str(tree)])
    assert names(files) == ["a.parquet", "b.parquet", "c.parquet"]
    assert files[0] == storage.File(str(tree / "a.parquet"), 4)


def test_a_trailing_slash_changes_nothing(tree: Path):
    assert storage.expand([f"{tree}/"]) == storage.expand([str(tree)])


def test_a_relative_path_becomes_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tree)
    assert storage.expand(["deep"]) == storage.expand([str(tree / "deep")])
    assert storage.absolute("deep") == str(tree / "deep")


def test_a_file_is_taken_whatever_its_name(tree: Path):
    assert names(storage.expand([str(tree / "notes.txt")])) == ["notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["a.parquet"]),
        ("deep/?.parquet", ["b.parquet"]),
        ("**/[bc].parquet", ["b.parquet", "c.parquet"]),
        ("d*/*/c.parquet", ["c.parquet"]),
    ],
)
def test_a_glob_matches_within_folders(tree: Path, pattern: str, expected: list[str]):
    assert names(storage.expand([str(tree / pattern)])) == expected


def test_a_list_keeps_its_order(tree: Path):
    given = [str(tree / "deep/er"), str(tree / "a.parquet")]
    assert names(storage.expand(given)) == ["c.parquet", "a.parquet"]


def test_a_file_named_twice_is_refused_by_name(tree: Path):
    with pytest.raises(ValueError, match=r"a\.parquet: named twice"):
        storage.expand([str(tree), str(tree / "a.parquet")])


def test_a_file_uri_is_the_same_file_as_its_path(tmp_path: Path):
    touch(tmp_path / "with space#%.parquet")
    uri = (tmp_path / "with space#%.parquet").as_uri()
    assert storage.expand([uri]) == storage.expand([str(tmp_path)])
    assert storage.read_bytes(uri) == b"1234"


def test_brackets_in_the_name_of_an_existing_folder_are_no_glob(tmp_path: Path):
    touch(tmp_path / "photos [1]" / "a.parquet")
    assert names(storage.expand([str(tmp_path / "photos [1]")])) == ["a.parquet"]


@pytest.mark.parametrize("missing", ["nowhere", "*.jpg", "empty"])
def test_what_names_nothing_is_an_error_with_its_name(tree: Path, missing: str):
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=missing.replace("*", r"\*")):
        storage.expand([str(tree / missing)])


def test_image_suffixes_match_in_any_case_and_underscores_stay(tmp_path: Path):
    touch(tmp_path / "_DSC1.JPG", tmp_path / "b.jpeg", tmp_path / "c.xml")
    assert names(storage.expand([str(tmp_path)], suffix=(".jpg", ".jpeg"))) == [
        "_DSC1.JPG",
        "b.jpeg",
    ]


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(ValueError, match="ftp://host"):
        storage.resolve("ftp://host/file")
    with pytest.raises(ValueError, match="empty URI"):
        storage.resolve("")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAEXAMPLE:hidden@bucket/key",
        "s3://AKIAEXAMPLE:hid/den@bucket/key",
        "s3://hidden@bucket/key",
        "s3://bucket/key?access_key=AKIAEXAMPLE&secret_key=hidden",
        "S3://bucket/key?X-Amz-Signature=hidden",
        "gs://hidden@bucket/key",
    ],
)
@pytest.mark.parametrize(
    "operation",
    [storage.resolve, storage.absolute, storage.read_bytes, lambda uri: storage.expand([uri])],
    ids=["resolve", "absolute", "read", "expand"],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(
    uri: str, operation: Callable[[str], object]
):
    with pytest.raises(ValueError, match=r"begins with (s3|S3|gs):// has") as caught:
        operation(uri)
    assert not any(part in str(caught.value) for part in ("hid", "AKIA"))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3:/bucket/key", "two slashes"),
        ("s3:bucket", "two slashes"),
        ("s3:///key", "names no bucket"),
        ("file:/data", "two slashes"),
        ("file://data/x", "three slashes"),
    ],
)
def test_a_mistyped_uri_is_no_local_path(uri: str, reason: str):
    with pytest.raises(ValueError, match=f"^{re.escape(uri)}: .*{reason}"):
        storage.absolute(uri)


def test_an_absolute_uri_of_a_store_needs_no_network():
    assert storage.absolute("s3://no-such-bucket/a b/") == "s3://no-such-bucket/a b"
    assert storage.absolute("gs://no-such-bucket") == "gs://no-such-bucket"


def test_a_gs_uri_resolves_without_network():
    filesystem, path = storage.resolve("gs://bucket/a b#c%20d")
    assert (filesystem.type_name, path) == ("gcs", "bucket/a b#c%20d")


def test_a_local_error_is_named_and_not_tried_again(tmp_path: Path):
    touch(tmp_path / "file")
    tries = []

    @storage.retrying
    def fail(uri: str) -> None:
        tries.append(uri)
        raise OSError(errno.EACCES, "message of the system")

    with pytest.raises(storage.StorageError, match=f"{tmp_path}: Permission denied") as caught:
        fail(str(tmp_path))
    assert (caught.value.errno, len(tries)) == (errno.EACCES, 1)
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")


def test_an_error_inside_a_block_that_is_not_the_files_is_left_alone(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="other") as caught:
        with storage.create(str(tmp_path / "out")):
            open(tmp_path / "other")
    assert "out" not in str(caught.value).removeprefix(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="lost: no such file"):
        storage.read_bytes(str(tmp_path / "lost"))


def test_written_bytes_replace_the_old_file_and_leave_no_other(tmp_path: Path):
    uri = storage.join(str(tmp_path), "new", "file")
    storage.write_bytes(uri, b"old")
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")
    with pytest.raises(RuntimeError), storage.create(uri) as stream:
        stream.write(b"half of")
        raise RuntimeError("the writer died")
    assert storage.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_waits_between_tries_are_random_below_a_bound_that_doubles(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(retries, "BACKOFF_S", 0.5)
    random.seed(0)
    bounds = [0.5, 1, 2, 4, 8, 16, 20, 20]
    rounds: list[list[float]] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: rounds[-1].append(seconds))

    @storage.retrying
    def busy(uri: str) -> None:
        if len(rounds[-1]) < len(bounds):
            raise OSError("AWS Error SLOW_DOWN during GetObject: Please reduce your rate")

    for _ in range(100):
        rounds.append([])
        busy("s3://bucket/key")
    for bound, waits in zip(bounds, zip(*rounds, strict=True), strict=True):
        assert 0 <= min(waits) < 0.1 * bound  # clients that failed together come back apart
        assert 0.9 * bound < max(waits) <= bound
        assert len(set(waits)) == 100


class Interrupted(io.BytesIO):
    """A file of 2 MiB in the middle of which the reader is interrupted."""

    def __init__(self) -> None:
        super().__init__(bytes(2**21))

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 2**20:
            raise KeyboardInterrupt
        return super().read(size)


def test_a_store_that_is_written_through_pyarrow_gets_whole_files_or_none():
    """As gs:// is: here one in memory, which publishes what a closed stream has, too."""
    filesystem, folder = storage.resolve("mock://bucket/set")
    filesystem.create_dir(folder)
    storage.write_bytes("mock://bucket/set/out", b"old")
    with pytest.raises(KeyboardInterrupt):
        storage._upload("mock://bucket/set/out", Interrupted())
    found = filesystem.get_file_info(pafs.FileSelector(folder))
    assert [file.base_name for file in found] == ["out"]
    assert storage.read_bytes("mock://bucket/set/out") == b"old"
    storage.write_bytes("mock://bucket/set/out", b"new")
    assert storage.read_bytes("mock://bucket/set/out") == b"new"
    with filesystem.open_output_stream(f"{folder}/.1f.partial") as stream:  # of a killed writer
        stream.write(b"half")
    storage.sweep("mock://bucket/set")
    assert len(filesystem.get_file_info(pafs.FileSelector(folder))) == 1
