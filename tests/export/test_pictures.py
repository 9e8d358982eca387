"""Image files of an export, and their names."""

import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2am_dist import names
from tests.export.sets import FORMATS, JPEG, files, run, scored
from tests.labeled import Labeled, picture, write_set

# Image files


def test_upright_jpeg_and_png_files_stay_the_bytes_they_are(tmp_path: Path):
    png = picture(kind="PNG")
    run(write_set(tmp_path, {"j": Labeled(JPEG), "p": Labeled(png)}), tmp_path / "out")
    written = files(tmp_path / "out")
    assert (written["images/j.jpg"], written["images/p.png"]) == (JPEG, png)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "png")])
def test_a_turned_image_is_written_upright(tmp_path: Path, kind: str, suffix: str):
    """A reader that ignores EXIF and one that heeds it see the image that the boxes are of."""
    size = (64, 96)
    labeled = Labeled(picture(size, kind, orientation=6), [(0, 0, 48, 32, 0.5)], size=size)
    report = run(write_set(tmp_path, {"turned": labeled}), tmp_path / "out")
    assert report.num_rewritten == 1
    image = Image.open(tmp_path / f"out/images/turned.{suffix}")
    assert image.size == (96, 64)
    assert 0x0112 not in image.getexif()
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert abs(pixels[:30, :46] - (220, 20, 20)).max() < 12
    assert abs(pixels[34:] - 128).max() < 12
    (entry,) = json.loads((tmp_path / "out/annotations/instances_train.json").read_bytes())[
        "images"
    ]
    assert (entry["width"], entry["height"]) == image.size


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_what_not_all_tools_read_becomes_png(tmp_path: Path, kind: str):
    data = picture(kind=kind)
    report = run(write_set(tmp_path, {"x": Labeled(data)}), tmp_path / "out")
    assert report.num_rewritten == 1
    written = np.asarray(Image.open(tmp_path / "out/images/x.png"))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(written, expected)


def test_an_image_that_cannot_be_turned_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cut_off = picture(orientation=6)[:-200]
    inputs = write_set(tmp_path, {"good": scored(0.5), "cut": Labeled(cut_off)})
    report = run(inputs, tmp_path / "out")
    assert (report.num_images, report.num_errors) == (1, 1)
    assert "cut: not exported: unreadable JPEG" in caplog.text


def test_without_images_no_shard_is_read_and_files_are_called_by_id(tmp_path: Path):
    inputs = write_set(tmp_path, {"a b/é.1": scored(0.5)}) | {"images": ()}
    out = tmp_path / "out"
    run(inputs, out, with_images=False, image_suffix=".JPEG")
    (entry,) = json.loads((out / "annotations/instances_train.json").read_bytes())["images"]
    assert entry["file_name"] == "a b/é.1.JPEG"
    assert files(out).keys() == {"_plan.json", "_SUCCESS", "annotations/instances_train.json"}


def test_without_images_a_name_that_leads_elsewhere_is_refused(tmp_path: Path):
    inputs = write_set(tmp_path, {"../x": scored(0.5)})
    with pytest.raises(ValueError, match=r"image_id '\.\./x' must be a relative path"):
        run(inputs, tmp_path / "out", with_images=False, format="yolo")
    assert not (tmp_path / "x.txt").exists()


# Names

NASTY = [
    "a", "A b", "a/b", "a//b", "a/", "/a", "..", "../a", "a/../b", ".a", "a.", "a.b.c", "a.jpg/b",
    "a~2eb", "a~b", "~0", "é", "e\u0301", "日本/語", "a\\b", "C:x", "a\tb", "a\nb", "", " ", "%2e",
    "x" * 300, "x" * 301, "é" * 300, "y/" + "z" * 255, "CON?*<>|:\"'", "#?&=+;", "images/images/a",
]  # fmt: skip


def test_every_id_becomes_a_path_of_its_own_that_every_tool_takes():
    for keep_dots in (True, False):
        paths = {image_id: names.file_path(image_id, keep_dots=keep_dots) for image_id in NASTY}
        for one, other in itertools.combinations(NASTY, 2):
            assert paths[one] != paths[other], (one, other)
        for path in paths.values():
            assert re.fullmatch(r"[A-Za-z0-9_.~/-]+", path)
            parts = f"{path}.jpg".split("/")
            assert not any(part.startswith(".") or part in ("", "..") for part in parts)
            assert max(map(len, parts)) <= 204
        files = {f"{path}.jpg" for path in paths.values()}
        folders = {"/".join(path.split("/")[:-1]) for path in files}
        assert not files & folders, "a file is called like a folder"


def test_an_ordinary_id_is_its_own_path():
    assert names.file_path("n01440764/ILSVRC2012_val_00000001-x.y") == (
        "n01440764/ILSVRC2012_val_00000001-x.y"
    )
    assert names.file_path("a b") == "a~20b"
    assert names.file_path("a.b", keep_dots=False) == "a~2eb"


@pytest.mark.parametrize("kind", FORMATS)
def test_images_with_nasty_ids_are_all_there_and_nowhere_else(tmp_path: Path, kind: str):
    inputs = write_set(tmp_path / "in", {image_id: scored(0.5) for image_id in NASTY})
    report = run(inputs, tmp_path / "deep/er/out", format=kind)
    assert report.num_images == len(NASTY)
    outside = [path for path in files(tmp_path) if not path.startswith(("in/", "deep/er/out/"))]
    assert not outside
    if kind != "webdataset":
        images = [p for p in files(tmp_path / "deep/er/out") if p.endswith(".jpg")]
        assert len(images) == len(NASTY)
