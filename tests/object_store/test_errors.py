"""What fails, how soon, and that the message names it."""

import time
from collections.abc import Callable

import pytest

from c2am_dist import object_store, retries, storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.object_store.objects import DATA, put, stored
from tests.object_store.operations import OPERATIONS, Operation, name_of, read


@pytest.mark.parametrize(("operation", "method", "path"), OPERATIONS, ids=name_of)
def test_retries_end_with_the_uri_named(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    operation: Operation,
    method: str,
    path: str,
):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.5)
    put(s3, f"{bucket}/a/in")
    read(s3, bucket)  # what is made once a process takes its time
    fault = proxy.inject("slow_down", times=None, method=method, path=path)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"^{bucket}/\S+: gave up after \d+ tries"):
        operation(s3, bucket)
    assert 2 <= fault.injected < 50
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("operation", "method", "path"), OPERATIONS, ids=name_of)
def test_what_is_refused_is_not_tried_again(
    s3: LocalS3, bucket: str, proxy: FaultProxy, operation: Operation, method: str, path: str
):
    put(s3, f"{bucket}/a/in")
    fault = proxy.inject("denied", times=None, method=method, path=path)
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/\S+: access denied \("):
        operation(s3, bucket)
    assert fault.injected == 1


def test_a_bucket_of_another_region_is_said_to_be_one(bucket: str, proxy: FaultProxy):
    fault = proxy.inject("redirect", times=None)
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/in: the bucket is in another reg"):
        storage.exists(f"{bucket}/in")
    assert fault.injected == 1


def test_a_missing_object_is_reported_at_once(bucket: str, proxy: FaultProxy):
    with pytest.raises(FileNotFoundError, match=rf"^{bucket}/lost: no such file$"):
        storage.read_bytes(f"{bucket}/lost")
    assert len(proxy.requests) == 1
    with pytest.raises(FileNotFoundError, match=rf"^{bucket}/lost: no such file$"):
        storage.read_range(f"{bucket}/lost", offset=0, size_bytes=1)
    assert not storage.exists(f"{bucket}/lost")
    assert storage.walk(f"{bucket}/lost") == []
    with pytest.raises(FileNotFoundError, match=rf"^{bucket}/lost: no such folder$"):
        storage.delete_folder(f"{bucket}/lost")


def test_an_object_that_is_too_large_is_not_read(
    s3: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    put(s3, f"{bucket}/in")
    monkeypatch.setattr(object_store, "MAX_BYTES", len(DATA) - 1)
    message = rf"^{bucket}/in: {len(DATA)} bytes, at most {len(DATA) - 1} are read at once$"
    with pytest.raises(storage.StorageError, match=message):
        storage.read_bytes(f"{bucket}/in")
    assert storage.read_range(f"{bucket}/in", offset=1, size_bytes=2) == DATA[1:3]


def test_an_empty_object_is_not_a_truncated_one(s3: LocalS3, bucket: str):
    put(s3, f"{bucket}/empty", b"")
    assert storage.read_bytes(f"{bucket}/empty") == b""
    with pytest.raises(EOFError, match=f"{bucket}/empty: ends within the 1 bytes at 0"):
        storage.read_range(f"{bucket}/empty", offset=0, size_bytes=1)
    storage.write_bytes(f"{bucket}/also", b"")
    assert stored(s3, bucket) == {"empty": b"", "also": b""}


def test_a_range_beyond_the_end_is_an_error(s3: LocalS3, bucket: str):
    put(s3, f"{bucket}/in", b"12345")
    with pytest.raises(EOFError, match=f"{bucket}/in: ends within the 5 bytes at 1"):
        storage.read_range(f"{bucket}/in", offset=1, size_bytes=5)
    with pytest.raises(EOFError, match=f"{bucket}/in: ends within the 5 bytes at 6"):
        storage.read_range(f"{bucket}/in", offset=6, size_bytes=5)


@pytest.mark.parametrize(
    "operation",
    [
        storage.read_bytes,
        storage.exists,
        storage.walk,
        storage.delete_folder,
        lambda uri: storage.expand([uri]),
        lambda uri: storage.write_bytes(uri, DATA),
    ],
    ids=["read", "exists", "walk", "delete", "expand", "write"],
)
def test_a_missing_bucket_is_reported_at_once(
    bucket: str, proxy: FaultProxy, operation: Callable[[str], object]
):
    with pytest.raises(FileNotFoundError, match=rf"^{bucket}-typo/x: no such bucket$"):
        operation(f"{bucket}-typo/x")
    assert 1 <= len(proxy.requests) <= 3
