"""Whole objects or none."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from c2am_dist import object_store, retries, storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.object_store.objects import DATA, put, stored, unfinished_uploads


def test_a_block_that_raises_publishes_nothing_and_keeps_the_old_object(
    s3: LocalS3, bucket: str, proxy: FaultProxy
):
    put(s3, f"{bucket}/out", b"old")
    with pytest.raises(RuntimeError), storage.create(f"{bucket}/out") as stream:
        stream.write(DATA * 100)
        raise RuntimeError("the writer died")
    assert stored(s3, bucket) == {"out": b"old"}
    assert unfinished_uploads(s3, bucket) == []
    assert not [request for request in proxy.requests if request.startswith(("PUT", "POST"))]


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Three parts' worth of data: uploads go in parts from 5 MiB, S3's least, on."""
    monkeypatch.setattr(object_store, "MULTIPART_BYTES", 5 * 2**20)
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)
    return DATA * 45


def test_a_large_object_goes_up_in_parts_through_faults(
    s3: LocalS3, bucket: str, proxy: FaultProxy, in_parts: bytes
):
    faults = [proxy.inject(k, method="PUT", path="partNumber=2") for k in ("slow_down", "reset")]
    storage.write_bytes(f"{bucket}/large", in_parts)
    assert stored(s3, bucket) == {"large": in_parts}
    assert [fault.injected for fault in faults] == [1, 1]
    assert unfinished_uploads(s3, bucket) == []


def test_a_large_object_that_cannot_be_finished_leaves_no_parts(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    in_parts: bytes,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(retries, "PATIENCE_S", 0.2)
    fault = proxy.inject("slow_down", times=None, method="PUT", path="partNumber=2")
    with pytest.raises(storage.StorageError, match=f"^{bucket}/large: gave up after"):
        storage.write_bytes(f"{bucket}/large", in_parts)
    assert fault.injected >= 1
    assert stored(s3, bucket) == {}
    assert unfinished_uploads(s3, bucket) == []


WRITER = """
import sys
from c2am_dist import object_store, storage
object_store.REQUEST_TIMEOUT_S = 60
object_store.MULTIPART_BYTES = object_store.PART_BYTES = int(sys.argv[2])
with storage.create(sys.argv[1]) as stream:
    stream.write(bytes(24 * 2**20))
    print("written", flush=True)
    if sys.argv[3] == "before":
        sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("when", "multipart_mib", "request_path"),
    [("before", 256, None), ("while", 256, r"/out$"), ("while", 8, "partNumber=2")],
    ids=["before the upload", "in one request", "in parts"],
)
def test_a_killed_writer_publishes_nothing(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    multipart_mib: int,
    request_path: str | None,
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    put(s3, f"{bucket}/out", b"old")
    fault = request_path and proxy.inject("delay", delay_s=1, method="PUT", path=request_path)
    command = [sys.executable, "-c", WRITER, f"{bucket}/out", str(multipart_mib * 2**20), when]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
        until = time.monotonic() + 20
        while fault and not fault.injected and time.monotonic() < until:
            time.sleep(0.01)
        assert not fault or fault.injected == 1
    finally:
        writer.kill()
        writer.communicate()
    time.sleep(1.5 if fault else 0)  # the proxy passes on what it was sent
    assert stored(s3, bucket) == {"out": b"old"}
    assert list(tmp_path.iterdir()) == []
    assert unfinished_uploads(s3, bucket) == (["out"] if multipart_mib == 8 else [])
    storage.sweep(bucket)
    assert unfinished_uploads(s3, bucket) == []


def begin_upload(s3: LocalS3, bucket: str, key: str) -> None:
    name = bucket.removeprefix("s3://")
    begun = s3.client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    s3.client.upload_part(Bucket=name, Key=key, UploadId=begun, PartNumber=1, Body=DATA)


def test_sweeping_a_folder_ends_the_uploads_below_it_and_no_others(
    s3: LocalS3, bucket: str, proxy: FaultProxy
):
    put(s3, f"{bucket}/run/out")
    for key in ("run/a/1", "run/b", "run/b", "run", "run-2/a", "other"):
        begin_upload(s3, bucket, key)
    fault = proxy.inject("slow_down", method="GET", path="uploads")
    storage.sweep(f"{bucket}/run")
    assert fault.injected == 1
    assert sorted(unfinished_uploads(s3, bucket)) == ["other", "run", "run-2/a"]
    assert stored(s3, bucket) == {"run/out": DATA}


def test_who_may_not_list_uploads_is_told_and_goes_on(
    s3: LocalS3, bucket: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
):
    fault = proxy.inject("denied", times=None, path="uploads")
    storage.sweep(f"{bucket}/run")
    assert fault.injected == 1
    assert f"parts of uploads may stay: {bucket}/run: access denied" in caplog.text


def test_an_upload_that_is_swept_away_while_it_goes_on_is_sent_again(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    in_parts: bytes,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(object_store, "REQUEST_TIMEOUT_S", 20.0)  # on a busy machine
    monkeypatch.setattr(retries, "PATIENCE_S", 60.0)
    fault = proxy.inject("delay", delay_s=1, method="PUT", path="partNumber=3")
    writer = threading.Thread(target=storage.write_bytes, args=(f"{bucket}/run/out", in_parts))
    writer.start()
    until = time.monotonic() + 20
    while not fault.injected and time.monotonic() < until:
        time.sleep(0.01)
    storage.sweep(f"{bucket}/run")
    writer.join()
    assert fault.injected == 1
    assert stored(s3, bucket) == {"run/out": in_parts}
    assert unfinished_uploads(s3, bucket) == []


FILLER = """
import resource, sys
from c2am_dist import storage
if sys.argv[1].startswith("s3:"):
    storage.exists(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
storage.write_bytes(sys.argv[1], bytes(2**21))
"""


@pytest.mark.parametrize("place", ["local", "store"])
def test_a_file_that_the_disk_does_not_take_is_named(
    s3: LocalS3, bucket: str, tmp_path: Path, place: str
):
    uri = f"{bucket}/out" if place == "store" else str(tmp_path / "out")
    command = [sys.executable, "-c", FILLER, uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith(f"StorageError: [Errno 27] {uri}: File too large\n")
    assert stored(s3, bucket) == {}
    assert list(tmp_path.iterdir()) == []
