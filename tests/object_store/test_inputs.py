"""Files that are read from any place, Parquet and tars: what came is what is there."""

import io
import tarfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import retries, storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data import shards
from c2am_dist.data.formats.webdataset import list_items
from c2am_dist.data.shards import RowGroup
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy, Kind
from tests.object_store.objects import DATA, put
from tests.object_store.operations import BUSY

NUM_ROWS = 40


def put_shard(uri: str, seed: int) -> pa.Table:
    """Stored plainly and of random bytes, so nothing but the content tells zeros from them."""
    rng = np.random.default_rng(seed)
    rows = {
        "image_id": [f"{seed}/{i}" for i in range(NUM_ROWS)],
        "image": pa.array([rng.bytes(10_000) for _ in range(NUM_ROWS)], pa.binary()),
    }
    table = pa.table(rows)
    with storage.create(uri) as stream:
        pq.write_table(table, stream, compression="none", use_dictionary=False)
    return table


def read_shard(uri: str) -> pa.Table:
    (group,) = shards.index([uri])
    return shards.read(group, ["image_id", "image"])


def read_labels(uri: str) -> pa.Table:
    with storage.open_input(uri) as source:
        return pq.read_table(source, columns=["image_id", "image"])


@pytest.mark.parametrize(("read_parquet", "num_requests"), [(read_shard, 3), (read_labels, 2)])
@pytest.mark.parametrize("kind", [*BUSY, "short"])
def test_parquet_files_are_read_through_faults(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    kind: Kind,
    read_parquet: Callable[[str], pa.Table],
    num_requests: int,
):
    """Each of the requests for a file is hit once, in a file of its own."""
    for number in range(num_requests):
        uri = f"{bucket}/{number}.parquet"
        table = put_shard(uri, number)
        proxy.clear()
        proxy.inject("delay", times=number, method="GET")  # of no seconds: these go well
        fault = proxy.inject(kind, times=2, method="GET")
        found = read_parquet(uri)
        assert found.to_pydict() == table.to_pydict()
        assert fault.injected == 2


def test_a_row_group_takes_two_requests_and_a_footer_one(
    s3: LocalS3, bucket: str, proxy: FaultProxy
):
    uri = f"{bucket}/0.parquet"
    put_shard(uri, 0)
    proxy.clear()
    (group,) = shards.index([uri])
    key = f"{bucket.removeprefix('s3:/')}/0.parquet"
    assert proxy.requests == [f"HEAD {key}", f"GET {key}"]  # what it is, its footer
    proxy.clear()
    shards.read(group, ["image_id", "image"])
    assert proxy.requests == [f"GET {key}"] * 2  # its footer, both columns


def test_what_ends_reading_a_parquet_file_keeps_its_name_and_its_kind(
    s3: LocalS3, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    uri = f"{bucket}/0.parquet"
    put_shard(uri, 0)
    (group,) = shards.index([uri])
    proxy.inject("delay", method="GET")
    proxy.inject("denied", times=None, method="GET")
    with pytest.raises(storage.StorageError, match=f"^{uri}: access denied"):
        shards.read(group, ["image"])
    monkeypatch.setattr(retries, "PATIENCE_S", 0.2)
    proxy.clear()
    proxy.inject("delay", method="GET")
    proxy.inject("short", times=None, method="GET")
    with pytest.raises(retries.UnreachableError, match=f"^{uri}: gave up after .* bytes at"):
        shards.read(group, ["image"])
    with pytest.raises(FileNotFoundError, match=f"^{bucket}/lost: no such file"):
        shards.read(RowGroup(f"{bucket}/lost", 0, 1), ["image"])


@pytest.mark.parametrize("size_bytes", [0, 1, 1000, 70_000, len(DATA)])
def test_a_file_can_be_read_from_any_place(
    s3: LocalS3, bucket: str, proxy: FaultProxy, size_bytes: int
):
    data = DATA[:size_bytes]
    with storage.open_input(put(s3, f"{bucket}/in", data)) as file:
        assert file.size() == size_bytes
        for start in {0, size_bytes // 2, max(0, size_bytes - 2**16 - 3), size_bytes}:
            file.seek(start)
            assert file.read(7) == data[start : start + 7]
            assert file.tell() == min(start + 7, size_bytes)
            assert file.read_at(7, start) == data[start : start + 7]
        file.seek(0)
        assert file.read() == data


def test_a_short_answer_hides_no_member_of_a_tar(s3: LocalS3, bucket: str, proxy: FaultProxy):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for i in range(40):
            member = tarfile.TarInfo(f"{i:02}.jpg")
            member.size = 10_000
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    uri = put(s3, f"{bucket}/0.tar", archive.getvalue())
    proxy.inject("delay", method="GET")
    fault = proxy.inject("short", times=2, method="GET")
    config = PrepareConfig(format="webdataset", input=(uri,), output=f"{bucket}/out")
    assert [item.image_id for item in list_items(config)] == [f"{i:02}" for i in range(40)]
    assert fault.injected == 2
