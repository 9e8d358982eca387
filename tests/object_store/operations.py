"""What storage does with an object store, one function each, which checks what came of it."""

from collections.abc import Callable

from c2am_dist import storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import Kind
from tests.object_store.objects import DATA, stored


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
"""Given the server and a bucket with the object ``a/in``."""
OPERATIONS: list[tuple[Operation, str, str]] = [
    (read, "GET", "/a/in"),
    (read_range, "GET", "/a/in"),
    (look, "HEAD", "/a/in"),
    (list_, "GET", "list-type"),
    (write, "PUT", "/out"),
    (delete, "POST", "delete"),
]
"""Each with the method and the path of the request that is to meet a fault."""
BUSY: list[Kind] = ["slow_down", "server_error", "reset", "truncate"]
"""Faults that pass."""


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)
