"""Storage on a real S3 server: what transient faults do not change, and what fails at once."""

import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import object_store, retries, storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy, Kind

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries of `storage` alone, and quickly."""
    monkeypatch.setattr(object_store, "SDK_ATTEMPTS", 1)
    monkeypatch.setattr(retries, "BACKOFF_S", 0.02)
    monkeypatch.setattr(retries, "PATIENCE_S", 10.0)
    monkeypatch.setattr(object_store, "REQUEST_TIMEOUT_S", 1.0)


def put(s3: LocalS3, uri: str, data: bytes = DATA) -> str:
    """Stores an object without the code under test."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3.client.put_object(Bucket=bucket, Key=key, Body=data)
    return uri


def stored(s3: LocalS3, bucket: str) -> dict[str, bytes]:
    """All objects of a bucket, read without the code under test."""
    name = bucket.removeprefix("s3://")
    listed = s3.client.list_objects_v2(Bucket=name).get("Contents", [])
    return {
        found["Key"]: s3.client.get_object(Bucket=name, Key=found["Key"])["Body"].read()
        for found in listed
    }


def unfinished_uploads(s3: LocalS3, bucket: str) -> list[str]:
    found = s3.client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
    return [upload["Key"] for upload in found.get("Uploads", [])]


# Each operation: the request that meets the fault, and what it does and must return.


def read(s3: LocalS3, bucket: str) -> None:
    assert storage.read_bytes(f"{bucket}/a/in") == DATA


def read_range(s3: LocalS3, bucket: str) -> None:
    part = storage.read_range(f"{bucket}/a/in", offset=1000, size_bytes=5000)
    assert part == DATA[1000:6000]


def look(s3: LocalS3, bucket: str) -> None:
    assert storage.exists(f"{bucket}/a/in")


def list_(s3: LocalS3, bucket: str) -> None:
    assert storage.walk(f"{bucket}/a") == [storage.File(f"{bucket}/a/in", len(DATA))]


def write(s3: LocalS3, bucket: str) -> None:
    storage.write_bytes(f"{bucket}/out", DATA)
    assert stored(s3, bucket) == {"a/in": DATA, "out": DATA}


def delete(s3: LocalS3, bucket: str) -> None:
    storage.delete_folder(f"{bucket}/a")
    assert stored(s3, bucket) == {}


Operation = Callable[[LocalS3, str], None]
OPERATIONS: list[tuple[Operation, str, str]] = [
    (read, "GET", "/a/in"),
    (read_range, "GET", "/a/in"),
    (look, "HEAD", "/a/in"),
    (list_, "GET", "list-type"),
    (write, "PUT", "/out"),
    (delete, "POST", "delete"),
]
BUSY: list[Kind] = ["slow_down", "server_error", "reset", "truncate"]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("operation", "method", "path"), OPERATIONS, ids=name_of)
@pytest.mark.parametrize("kind", BUSY)
def test_a_fault_that_passes_changes_nothing(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    kind: Kind,
    operation: Operation,
    method: str,
    path: str,
):
    put(s3, f"{bucket}/a/in")
    fault = proxy.inject(kind, times=2, method=method, path=path)
    operation(s3, bucket)
    is_done_by_the_first = operation is delete and kind in ("reset", "truncate")
    assert fault.injected == (1 if is_done_by_the_first else 2)


@pytest.mark.parametrize("operation", [read, read_range], ids=name_of)
def test_a_short_answer_is_never_taken_for_the_whole(
    s3: LocalS3, bucket: str, proxy: FaultProxy, operation: Operation
):
    put(s3, f"{bucket}/a/in")
    fault = proxy.inject("short", times=2, method="GET")
    operation(s3, bucket)
    assert fault.injected == 2


@pytest.mark.parametrize(
    ("operation", "method"), [(read, "GET"), (look, "HEAD"), (write, "PUT")], ids=name_of
)
def test_a_request_that_hangs_is_given_up_and_sent_again(
    s3: LocalS3, bucket: str, proxy: FaultProxy, operation: Operation, method: str
):
    put(s3, f"{bucket}/a/in")
    fault = proxy.inject("delay", delay_s=8, method=method)
    started = time.monotonic()
    operation(s3, bucket)
    assert fault.injected == 1
    assert time.monotonic() - started < 7


def test_a_slow_answer_is_waited_for(s3: LocalS3, bucket: str, proxy: FaultProxy):
    put(s3, f"{bucket}/a/in")
    fault = proxy.inject("delay", delay_s=0.3, method="GET")
    read(s3, bucket)
    assert fault.injected == 1
    assert proxy.requests.count(f"GET {bucket.removeprefix('s3:/')}/a/in") == 1


@storage.retrying
def read_table(uri: str) -> pa.Table:
    filesystem, path = storage.resolve(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read()


@pytest.mark.parametrize("kind", BUSY)
def test_a_parquet_file_is_read_through_faults(
    s3: LocalS3, bucket: str, proxy: FaultProxy, kind: Kind
):
    table = pa.table({"row": range(100_000)})
    with storage.create(f"{bucket}/table.parquet") as stream:
        pq.write_table(table, stream)
    fault = proxy.inject(kind, times=2, method="GET")
    assert read_table(f"{bucket}/table.parquet").equals(table)
    assert fault.injected == 2


def test_the_sdk_repeats_single_requests_of_a_plain_filesystem(
    s3: LocalS3, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(object_store, "SDK_ATTEMPTS", 3)
    put(s3, f"{bucket}/in")
    fault = proxy.inject("reset", method="GET")
    filesystem, path = storage.resolve(f"{bucket}/in")
    with filesystem.open_input_file(path) as file:
        assert file.read() == DATA
    assert fault.injected == 1


def test_many_readers_get_whole_objects_from_a_store_that_fails_a_third_of_the_time(
    s3: LocalS3, bucket: str, proxy: FaultProxy
):
    uris = [put(s3, f"{bucket}/{i}", DATA[i:]) for i in range(40)]
    faults = [proxy.inject(k, times=None, probability=0.08, seed=i) for i, k in enumerate(BUSY)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(storage.read_bytes, uris)) == [DATA[i:] for i in range(40)]
    assert all(fault.injected for fault in faults)


def test_a_server_that_is_killed_and_comes_back_is_waited_for(s3: LocalS3, bucket: str):
    put(s3, f"{bucket}/a/in")
    read(s3, bucket)
    s3.kill()
    back = threading.Timer(0.5, s3.start)
    back.start()
    try:
        read(s3, bucket)
        write(s3, bucket)
    finally:
        back.join()


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


@pytest.fixture
def newly_found() -> Iterator[None]:
    """boto3 looks for credentials once a process; a test that changes them has it look again."""
    object_store._session.cache_clear()
    yield
    object_store._session.cache_clear()


WRONG = "wrong/secret+with/everything0123456789"


@pytest.mark.usefixtures("newly_found")
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": WRONG}, "the credentials are refused"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "the credentials are refused"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials found"),
    ],
    ids=["wrong secret", "unknown key", "none"],
)
def test_credentials_that_do_not_work_are_said_to_be_why(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environment: dict[str, str | None],
    reason: str,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    caplog.set_level(logging.DEBUG, "c2am_dist")
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/x: {reason} \(") as writing:
        storage.write_bytes(f"{bucket}/x", DATA)
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/x: {reason} \(") as reading:
        storage.read_bytes(f"{bucket}/x")
    with pytest.raises(storage.StorageError, match=rf"^{bucket}: {reason} \(") as listing:
        storage.walk(bucket)
    assert len(proxy.requests) <= 3
    errors = [caught.value for caught in (writing, reading, listing)]
    said = "".join(f"{e!r} {e} {e.__cause__!r} {e.__context__!r}" for e in errors) + caplog.text
    assert not any(secret in said for secret in (WRONG, s3.secret_key))


def test_no_retry_logs_a_secret(
    s3: LocalS3, bucket: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
):
    put(s3, f"{bucket}/a/in")
    proxy.inject("slow_down")
    caplog.set_level(logging.DEBUG, "c2am_dist")
    read(s3, bucket)
    assert re.search(rf"{bucket}/a/in: .*SlowDown.*; trying again in 0\.\d s", caplog.text)
    assert s3.secret_key not in caplog.text


def test_an_endpoint_with_credentials_in_it_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:1")
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL has to be") as caught:
        storage.exists(f"{bucket}/x")
    assert "hidden" not in str(caught.value)


# Where the endpoint, the region and the credentials come from

ROUND_TRIP = """
import sys
from c2am_dist import storage
bucket = sys.argv[1]
storage.write_bytes(f"{bucket}/out", b"written")  # by boto3
assert [file.uri for file in storage.walk(bucket)] == [f"{bucket}/out"]  # by pyarrow
assert storage.read_bytes(f"{bucket}/out") == b"written"
print(storage.resolve(bucket)[0].region)
"""


def round_trip(bucket: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since both SDKs look for all this once a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nothing = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, bucket],
        env={**kept, **nothing, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_profile_is_enough(s3: LocalS3, bucket: str, tmp_path: Path):
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-west-3\nendpoint_url = {s3.endpoint}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    done = round_trip(bucket, {**files, "AWS_PROFILE": "lab"})
    assert done.stdout == "eu-west-3\n", done.stderr
    failed = round_trip(bucket, {**files, "AWS_PROFILE": "lob"})
    assert re.search(rf"StorageError: {bucket}/out: .*profile \(lob\) could not", failed.stderr)


def test_the_role_of_the_machine_is_enough(s3: LocalS3, bucket: str):
    asked: set[str] = set()

    class InstanceMetadata(http.server.BaseHTTPRequestHandler):
        """What answers on 169.254.169.254 of an EC2 instance with a role."""

        def answer(self):
            asked.add(self.headers["User-Agent"].partition("/")[0])
            role = {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": "2026-01-01T00:00:00Z",
                "Expiration": "2056-01-01T00:00:00Z",
                "AccessKeyId": s3.access_key,
                "SecretAccessKey": s3.secret_key,
                "Token": "",
            }
            folder = "/latest/meta-data/iam/security-credentials"
            pages = {"/latest/api/token": "token", folder: "lab", f"{folder}/lab": json.dumps(role)}
            page = pages.get(self.path.rstrip("/"))
            self.send_response(200 if page else 404)
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            self.wfile.write((page or "").encode())

        do_GET = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), InstanceMetadata) as metadata:
        thread = threading.Thread(target=metadata.serve_forever, args=(0.05,))
        thread.start()
        service = f"http://127.0.0.1:{metadata.server_port}"
        done = round_trip(
            bucket,
            {
                "AWS_ENDPOINT_URL": s3.endpoint,
                "AWS_REGION": "eu-west-3",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": service,
            },
        )
        metadata.shutdown()
        thread.join()
    assert done.stdout == "eu-west-3\n", done.stderr
    assert asked == {"aws-sdk-cpp", "Boto3"}


def test_the_endpoint_of_s3_alone_comes_first(
    s3: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    put(s3, f"{bucket}/a/in")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    read(s3, bucket)
    list_(s3, bucket)


def test_a_known_region_is_not_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_REGION", "ap-south-2")
    filesystem, path = storage.resolve("s3://c2am-dist-no-network/x")
    assert (filesystem.region, path) == ("ap-south-2", "c2am-dist-no-network/x")


# Whole objects or none


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


# Names and listings


ODD = ["sp ace", "ha#sh", "per%cent", "per%20cent", "ünï-日本", "plus+", "q?m", "am&p=b", "br[1]"]


def test_keys_are_taken_as_they_are(s3: LocalS3, bucket: str):
    uris = {key: f"{bucket}/odd/{key}.parquet" for key in ODD}
    for key, uri in uris.items():
        storage.write_bytes(uri, key.encode())
    assert stored(s3, bucket) == {f"odd/{key}.parquet": key.encode() for key in ODD}
    for key, uri in uris.items():
        assert storage.read_bytes(uri) == key.encode()
        assert storage.expand([uri]) == [storage.File(uri, len(key.encode()))]
    listed = storage.expand([f"{bucket}/odd"])
    assert [file.uri for file in listed] == sorted(uris.values())
    storage.delete_folder(f"{bucket}/odd")
    assert stored(s3, bucket) == {}


def test_folders_globs_and_lists_name_objects_in_an_order_of_their_own(s3: LocalS3, bucket: str):
    # SeaweedFS lists by folder, S3 by byte: "a-b/" comes before "a/" there.
    keys = ["a/2", "a/10", "a-b/1", "a.b/1", "b", "a/x/1", "_meta/1", ".hidden/1", "A/1"]
    for key in keys:
        put(s3, f"{bucket}/in/{key}.parquet", b"x")
    put(s3, f"{bucket}/in/notes.txt", b"x")

    def expand(*patterns: str) -> list[str]:
        files = storage.expand([f"{bucket}/in/{pattern}" for pattern in patterns])
        return [file.uri.removeprefix(f"{bucket}/in/").removesuffix(".parquet") for file in files]

    visible = ["A/1", "a-b/1", "a.b/1", "a/10", "a/2", "a/x/1", "b"]
    assert expand("") == visible
    assert storage.expand([f"{bucket}/in"]) == storage.expand([f"{bucket}/in/"])
    assert expand("*.parquet") == ["b"]
    assert expand("a*/?.parquet") == ["a-b/1", "a.b/1", "a/2"]
    assert expand("**/1.parquet") == ["A/1", "a-b/1", "a.b/1", "a/x/1"]
    assert expand("b.parquet", "a") == ["b", "a/10", "a/2", "a/x/1"]
    with pytest.raises(ValueError, match=f"{bucket}/in/b.parquet: named twice"):
        expand("", "b.parquet")
    for nothing in ("nowhere", "*.jpg"):
        with pytest.raises(FileNotFoundError, match=rf"^{bucket}/in/{re.escape(nothing)}: "):
            expand(nothing)


def test_a_listing_of_several_pages_is_complete_through_faults(
    s3: LocalS3, bucket: str, proxy: FaultProxy
):
    uris = [f"{bucket}/many/{i % 7}/{i:04}" for i in range(1010)]  # 1000 a page
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: put(s3, uri, b""), uris))
    fault = proxy.inject("reset", method="GET", path="continuation-token")
    assert sorted(file.uri for file in storage.walk(f"{bucket}/many")) == sorted(uris)
    assert fault.injected == 1
    fault = proxy.inject("slow_down", method="POST", path="delete")
    storage.delete_folder(f"{bucket}/many")
    assert fault.injected == 1
    assert stored(s3, bucket) == {}


def test_deleting_a_folder_leaves_its_neighbours_and_no_marker(s3: LocalS3, bucket: str):
    put(s3, f"{bucket}/run/step-1/x", b"x")
    put(s3, f"{bucket}/run/step-10/x", b"x")
    storage.delete_folder(f"{bucket}/run/step-1")
    assert stored(s3, bucket) == {"run/step-10/x": b"x"}
    storage.delete_folder(f"{bucket}/run/step-10/")
    assert stored(s3, bucket) == {}


def test_a_whole_bucket_is_not_deleted(s3: LocalS3, bucket: str):
    put(s3, f"{bucket}/x", b"x")
    with pytest.raises(storage.StorageError, match=f"^{bucket}: is a whole bucket"):
        storage.delete_folder(bucket)
    assert stored(s3, bucket) == {"x": b"x"}


# The server itself

STARTER = """
import sys
from jobs.local_s3 import LocalS3
with LocalS3() as s3:
    print(s3.endpoint, s3.folder, flush=True)
    sys.stdin.read()
"""


def test_the_server_ends_with_the_process_that_started_it():
    root = Path(__file__).resolve().parents[1]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    endpoint, folder = starter.stdout.readline().decode().split()
    address = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    socket.create_connection(address, timeout=1).close()
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    until = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(folder).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_a_server_keeps_what_it_acknowledged_when_it_is_killed(tmp_path: Path):
    with LocalS3(tmp_path / "kept") as server:
        uri = put(server, f"{server.new_bucket()}/x")
        server.kill()
        server.start()
        assert stored(server, uri.removesuffix("/x")) == {"x": DATA}
