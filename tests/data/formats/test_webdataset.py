"""Tars of samples."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from c2am_dist import storage
from tests.data.formats.layouts import JPEG, boxes_of, image_bytes, listing


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:  # type: ignore
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(path)


def test_webdataset_samples_are_members_of_one_name(tmp_path: Path):
    notes = {"label": "ignored", "boxes": [[1, 2, 3, 4]], "box_labels": ["dog"]}
    png = image_bytes(kind="PNG")
    tar(
        tmp_path / "set-0.tar",
        {
            "./x/0001.jpg": JPEG,
            "./x/0001.cls": b"7\n",
            "./x/0001.json": json.dumps(notes).encode(),
            "./x/0001.mask.png": image_bytes(kind="PNG", mode="L"),
        },
    )
    tar(tmp_path / "set-1.tar", {"0002.txt": b"a dog", "0002.png": png, "0003.webp": JPEG})
    items = listing(tmp_path, "webdataset")
    assert {key: item.label for key, item in items.items()} == {
        "x/0001": "7",
        "0002": "a dog",
        "0003": None,
    }
    assert boxes_of(items["x/0001"]) == ([[1, 2, 3, 4]], ["dog"])
    assert items["x/0001"].mask is not None
    blob = items["0002"].image
    assert blob.offset is not None
    assert storage.read_range(blob.uri, offset=blob.offset, size_bytes=blob.size_bytes) == png


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.json": b"{}"}, "sample '1' holds no image"),
        ({"1.jpg": JPEG, "1.png": JPEG}, "sample '1' holds two images"),
        ({"1.jpg": JPEG, "1.json": b"{"}, "sample '1': unreadable annotation"),
    ],
)
def test_webdataset_samples_that_make_no_sense_are_named(
    tmp_path: Path, members: dict[str, bytes], message: str
):
    with pytest.raises(ValueError, match=message):
        listing(tar(tmp_path / "x.tar", members), "webdataset")


def test_one_key_in_two_tars_is_refused_by_name(tmp_path: Path):
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / name, {"0001.jpg": JPEG})
    with pytest.raises(ValueError, match=r"duplicate image_id '0001'.*a\.tar and .*b\.tar"):
        listing(tmp_path, "webdataset")


def test_compressed_and_broken_tars_are_named(tmp_path: Path):
    packed = tar(tmp_path / "packed.tar", {"1.jpg": JPEG}, mode="w:gz")
    whole = Path(tar(tmp_path / "whole.tar", {f"{n}.jpg": JPEG for n in range(40)}))
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: len(JPEG) // 2 + 512])
    for uri in (packed, str(tmp_path / "cut.tar")):
        with pytest.raises(ValueError, match=r"(packed|cut)\.tar: not an uncompressed tar"):
            listing(uri, "webdataset")
