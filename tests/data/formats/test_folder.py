"""Plain folders of images."""

from pathlib import Path

import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import list_items
from tests.data.formats.layouts import JPEG, listing
from tests.files import lay_out


def test_class_subfolders_are_labels_and_paths_are_ids(tmp_path: Path):
    files = {"cat/in/a.JPG": JPEG, "dog/a.png": JPEG, "b.webp": JPEG, "notes.txt": ""}
    items = listing(lay_out(tmp_path, files), "folder", split="mine")
    assert {key: item.label for key, item in items.items()} == {
        "cat/in/a": "cat",
        "dog/a": "dog",
        "b": None,
    }
    assert items["b"].image.size_bytes == len(JPEG)
    assert {item.split for item in items.values()} == {"mine"}
    assert items["b"].boxes is None


def test_a_glob_and_a_list_name_images_too(tmp_path: Path):
    root = lay_out(tmp_path, {"x/1.jpg": JPEG, "x/2.jpg": JPEG, "x/3.gif": JPEG, "4.jpg": JPEG})
    config = PrepareConfig(input=(f"{root}/x/*.jpg", f"{root}/4.jpg"), output="unused")
    assert [item.image_id for item in list_items(config)] == ["1", "2", "4"]


def test_two_images_with_one_id_are_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path, {"a.jpg": JPEG, "a.png": JPEG})
    with pytest.raises(ValueError, match=r"duplicate image_id 'a'.*a\.jpg and .*a\.png"):
        listing(root, "folder")


def test_a_path_given_twice_is_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path, {"x/a.jpg": JPEG})
    with pytest.raises(ValueError, match=r"x/a\.jpg: named twice"):
        list_items(PrepareConfig(input=(str(root), f"{root}/x"), output="unused"))


def test_a_folder_without_images_is_refused_by_name(tmp_path: Path):
    root = lay_out(tmp_path / "bare", {"notes.txt": ""})
    with pytest.raises(FileNotFoundError, match=r"bare: no \.jpg"):
        listing(root, "folder")
