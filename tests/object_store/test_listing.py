"""Names, listings and what is deleted."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from c2am_dist import storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.object_store.objects import put, stored

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
