"""What all formats share: boxes in pixels, folders that are not there."""

import dataclasses
from pathlib import Path

import pytest

from c2am_dist.data.formats import Blob, Boxes
from c2am_dist.data.formats.items import pixel_boxes
from tests.data.formats.layouts import JPEG, image_bytes, listing
from tests.files import lay_out


def make(edges: tuple[float, float, float, float], **options: object) -> Boxes:
    return dataclasses.replace(Boxes((edges,), ("x",)), **options)  # type: ignore


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((2, 3, 9, 8), [[2, 3, 9, 8]]),
        ((2.5, 3.5, 8.5, 7.5), [[2, 3, 9, 8]]),
        ((1.999, 3.001, 9.001, 7.999), [[2, 3, 9, 8]]),  # a float's idea of whole pixels
        ((-5, -5, 400, 300), [[0, 0, 40, 30]]),
        ((40, 0, 50, 10), []),  # outside
        ((5, 5, 5, 10), []),  # no width
        ((5.5, 5, 5.5, 10), []),
    ],
)
def test_boxes_are_rounded_outward_and_clipped(edges, expected):
    assert pixel_boxes(make(edges), (30, 40)) == (expected, ["x"] * len(expected))


def test_boxes_scale_from_the_size_that_their_annotation_states():
    assert pixel_boxes(make((1, 2, 10, 15), frame=(20.0, 15.0)), (30, 40))[0] == [[2, 4, 20, 30]]


def test_boxes_of_the_unturned_image_are_refused():
    with pytest.raises(ValueError, match="annotated at 30x40, but upright the image is 40x30"):
        pixel_boxes(make((1, 2, 3, 4), frame=(30.0, 40.0)), (30, 40))


def test_a_box_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        pixel_boxes(make((1, 2, float("nan"), 4)), (30, 40))


@pytest.mark.parametrize("kind", ["folder", "imagenet", "cub", "voc", "coco", "yolo", "webdataset"])
def test_a_missing_folder_is_named(tmp_path: Path, kind: str):
    with pytest.raises(FileNotFoundError, match="nowhere: no such"):
        listing(tmp_path / "nowhere", kind)
    lay_out(tmp_path / "bare", {"notes.md": ""})
    with pytest.raises((FileNotFoundError, ValueError), match="bare: no "):
        listing(tmp_path / "bare", kind)


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Two images in a class's folder, and a mask of one of them elsewhere."""
    files = {"set/cat/a.jpg": JPEG, "set/cat/b.jpg": JPEG}
    return lay_out(tmp_path, {**files, "ids/cat/a.png": image_bytes(kind="PNG", mode="L")})


def test_masks_of_a_folder_go_to_images_of_their_names(cats: Path):
    items = listing(cats / "set", "folder", masks=f"{cats}/ids")
    assert items["cat/a"].mask == Blob(f"{cats}/ids/cat/a.png", items["cat/a"].mask.size_bytes)  # type: ignore
    assert items["cat/b"].mask is None


def test_masks_of_a_folder_are_found_as_our_jobs_call_them(tmp_path: Path):
    png = image_bytes(kind="PNG", mode="L")
    files = {"set/a b/c.jpg": JPEG, "set/a b/d.jpg": JPEG, "ids/a~20b/c.png": png}
    root = lay_out(tmp_path, {**files, "ids/a b/d.png": png})
    items = listing(root / "set", "folder", masks=f"{root}/ids")
    found = {image_id: str(item.mask.uri) for image_id, item in items.items()}  # type: ignore
    assert found == {"a b/c": f"{root}/ids/a~20b/c.png", "a b/d": f"{root}/ids/a b/d.png"}


def test_masks_of_a_folder_stand_in_for_those_of_the_layout(tmp_path: Path):
    png = image_bytes(kind="PNG", mode="L")
    files = {f"JPEGImages/{name}.jpg": JPEG for name in "ab"}
    files |= {f"SegmentationClass/{name}.png": png for name in "ab"}
    root = lay_out(tmp_path, {**files, "other/a.png": png})
    items = listing(root, "voc", masks=f"{root}/other")
    assert str(items["a"].mask.uri) == f"{root}/other/a.png"  # type: ignore
    assert items["b"].mask is None


def test_a_folder_of_masks_that_fits_no_image_is_refused(cats: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder \(masks\)"):
        listing(cats / "set", "folder", masks=f"{cats}/nowhere")
    with pytest.raises(ValueError, match=r"cat: none of its 1 PNGs .* such as cat/a\.png"):
        listing(cats / "set", "folder", masks=f"{cats}/ids/cat")
