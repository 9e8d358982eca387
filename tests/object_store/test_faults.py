"""What transient faults do not change."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from c2am_dist import object_store, retries, storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy, Kind
from tests.object_store.objects import DATA, put
from tests.object_store.operations import (
    BUSY,
    OPERATIONS,
    Operation,
    delete,
    look,
    name_of,
    read,
    read_range,
    write,
)


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


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    s3: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retries, "PATIENCE_S", 60.0)  # on a busy machine it starts slowly
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
