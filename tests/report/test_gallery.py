"""What the gallery of a report is given."""

import base64
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from c2am_dist.method import images
from c2am_dist.report import gallery, rows
from tests.report import sets
from tests.report.pages import make, of, shown
from tests.report.sets import iou_of, write_set


def test_the_gallery_is_given_what_labels_and_shards_say(tmp_path: Path):
    made = write_set(tmp_path, 7, shard_images=3)
    make(tmp_path / "report", **of(made))
    found = shown(tmp_path / "report")
    assert [row["image_id"] for row in found] == [f"image-{i:05d}" for i in range(7)]
    row = found[5]
    assert row["boxes"] == [[5, 0, 45, 40]] and row["truths"] == [list(sets.TRUTH)]
    assert row["iou"] == round(iou_of(5), 4) == pytest.approx(35 / 45, abs=1e-4)
    assert (row["confidence"], row["foreground"], row["threshold"]) == (0.595, 0.5, 0.5)
    assert (row["height"], row["width"], row["label"]) == (60, 80, "class 2")
    picture = (tmp_path / "report" / row["picture"]).read_bytes()
    assert images.header(picture) == (60, 80)
    assert np.abs(images.decode(picture)[20, 20].astype(int) - (250, 240, 30)).max() < 25
    cells = np.frombuffer(base64.b64decode(row["map"]["data"]), np.uint8)
    assert cells.reshape(15, 20)[5].tolist() == [0] + [255] * 10 + [0] * 9
    assert row["peak"] == pytest.approx(0.8, abs=1e-4) and row["cue"] is None


def test_a_stored_cue_is_handed_on_and_large_maps_become_small(tmp_path: Path):
    cue = images.encode_png8(np.tile(np.float32([1, 0]), (64, 32)))
    tall = images.encode_png16(np.ones((90, 4), np.float32))
    made = write_set(
        tmp_path, 1, label=lambda r: r | {"background_cue": cue, "activation_map": tall}
    )
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    assert (row["map"]["height"], row["map"]["width"]) == (32, 4)
    assert (row["cue"]["height"], row["cue"]["width"]) == (32, 32)
    assert set(base64.b64decode(row["cue"]["data"])) == {128}  # each cell is two of both


def test_the_factors_of_a_class_activation_map_and_its_class_are_handed_on(tmp_path: Path):
    factors = {
        "norm_map": images.encode_png16(np.eye(4, dtype=np.float32)),
        "similarity_map": images.encode_png16(np.full((4, 4), 0.5, np.float32)),
    }
    made = write_set(tmp_path, 1, label=lambda r: r | factors | {"class_name": "<cat>"})
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    (norm, grid), (similarity, _) = row["factors"]
    assert "norm" in norm and "similarity" in similarity and row["shows"] == "<cat>"
    cells = np.frombuffer(base64.b64decode(grid["data"]), np.uint8).reshape(4, 4)
    assert (cells == 255 * np.eye(4)).all()


def test_pictures_are_small_upright_and_without_metadata(tmp_path: Path):
    exif = (
        b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    pixels = np.zeros((300, 900, 3), np.uint8)

    def turned(row: dict[str, Any]) -> dict[str, Any]:
        jpeg = simplejpeg.encode_jpeg(pixels)
        return row | {"image": jpeg[:2] + exif + jpeg[2:], "height": 900, "width": 300}

    made = write_set(tmp_path, 1, shard=turned)
    make(tmp_path / "report", **of(made))
    (row,) = shown(tmp_path / "report")
    assert (row["height"], row["width"]) == (900, 300)
    picture = (tmp_path / "report" / row["picture"]).read_bytes()
    assert images.header(picture) == (256, 85)
    assert b"Exif" not in picture


def test_images_that_failed_are_shown_as_such(tmp_path: Path):
    blank = {"pseudo_boxes": None, "activation_map": None, "confidence": None}
    blank |= {"foreground_fraction": None, "threshold": None, "width": None, "height": None}

    def label(row: dict[str, Any]) -> dict[str, Any]:
        failed = {"image-00001": {**blank, "error": "truncated"}}
        boxless = {"image-00002": {"pseudo_boxes": []}}
        return row | {**failed, **boxless}.get(row["image_id"], {})

    def shard(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"image": b"no"} if row["image_id"] in ("image-00001", "image-00003") else {})

    made = write_set(tmp_path, 4, label=label, shard=shard)
    page = make(tmp_path / "report", **of(made))
    found = shown(tmp_path / "report")
    assert [row["iou"] for row in found] == [1, 0, 0, round(iou_of(3), 4)]
    assert found[1]["error"] == "truncated" and found[1]["picture"] is None
    assert found[3]["error"].startswith("not an image") and found[3]["map"] is not None
    assert re.search(r"with an error</th><td>1<", page)
    assert re.search(r"without a box</th><td>1<", page)


def test_unknown_boxes_and_maps_that_were_not_stored_are_no_error(tmp_path: Path):
    made = write_set(
        tmp_path,
        2,
        label=lambda row: row | {"activation_map": None},
        shard=lambda row: row | {"boxes": None, "label": None},
    )
    make(tmp_path / "report", **of(made))
    row = shown(tmp_path / "report")[0]
    assert (row["iou"], row["truths"], row["label"], row["map"]) == (None, None, None, None)


def test_an_image_that_the_shards_lack_is_named(tmp_path: Path):
    made = write_set(tmp_path, 3, label=lambda row: row | {"image_id": row["image_id"] + "x"})
    with pytest.raises(ValueError, match="lack the labeled image 'image-00000x'"):
        make(tmp_path / "report", **of(made))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("worst", [f"image-{i:05d}" for i in (36, 37, 38, 39)] + ["image-00002"]),
        ("uncertain", ["image-00000"]),
    ],
)
def test_the_worst_and_the_least_confident_are_chosen(
    tmp_path: Path, select: str, expected: list[str]
):
    made = write_set(
        tmp_path,
        40,
        shard_images=15,
        label=lambda r: r | ({"pseudo_boxes": []} if r["image_id"] == "image-00002" else {}),
    )
    make(tmp_path / "report", **of(made), max_images=len(expected), select=select)
    assert {row["image_id"] for row in shown(tmp_path / "report")} == set(expected)


def test_without_a_known_box_the_worst_are_errors_and_images_without_a_box(tmp_path: Path):
    made = write_set(tmp_path, 4, shard=lambda row: row | {"boxes": None})
    page = make(tmp_path / "report", **of(made), max_images=2, select="worst")
    assert "2 of 4 images: errors and images without a box first, the others drawn" in page
    assert '<option value="worst">errors and images without a box first</option>' in page
    assert "lowest IoU" not in page
    known = make(
        tmp_path / "known", **of(write_set(tmp_path / "b", 4)), max_images=2, select="worst"
    )
    assert "with the lowest IoU" in known and ">worst first (lowest IoU)</option>" in known


def test_an_image_that_the_shards_hold_twice_is_named(tmp_path: Path):
    """In two folders with files of one name; nothing says which one is meant."""
    one, same = (write_set(tmp_path / name, 1) for name in ("one", "same"))
    with pytest.raises(ValueError, match=r"image_id 'image-00000' is in the shards twice"):
        make(tmp_path / "report", labels=[one.labels], images=[one.images, same.images])
    rename = lambda row: row | {"image_id": "another"}  # noqa: E731
    other = write_set(tmp_path / "other", 1, label=rename, shard=rename)
    inputs = {"labels": [one.labels, other.labels], "images": [one.images, other.images]}
    make(tmp_path / "report", **inputs)
    assert [row["image_id"] for row in shown(tmp_path / "report")] == ["image-00000", "another"]


def test_a_sample_does_not_depend_on_how_labels_are_split(tmp_path: Path):
    found = []
    for size in (7, 40):
        made = write_set(tmp_path / str(size), 40, shard_images=size)
        page = make(tmp_path / f"report-{size}", **of(made), max_images=9)
        found.append([row["image_id"] for row in shown(tmp_path / f"report-{size}")])
        assert "9 of 40 images: drawn at random." in page
    assert found[0] == found[1] and len(set(found[0])) == 9
    assert found[0] != [f"image-{i:05d}" for i in range(9)]


def test_choosing_holds_no_more_rows_than_it_returns(tmp_path: Path):
    """A row that was passed over is gone, or a set of millions would fill the memory."""

    class Watched(rows.Row):  # slots of a dataclass take no weak references
        __slots__ = ("__weakref__",)

    refs, most = list[weakref.ref[Watched]](), 0

    def stream() -> Iterator[rows.Row]:
        nonlocal most
        for place in range(1000):
            row = Watched(place, "uri", sets.label_row(place, "s"), None, None)
            refs.append(weakref.ref(row))
            most = max(most, sum(ref() is not None for ref in refs))
            yield row
            del row

    assert len(gallery.choose(stream(), 50, "uncertain", 0)) == 50
    assert most <= 53
