"""Label maps by name and from text files."""

from pathlib import Path

import pytest

from c2am_dist.data import label_map_files
from c2am_dist.method.label_maps import COCO, VOC
from tests.files import lay_out


def test_published_label_maps_go_by_name():
    assert label_map_files.read("voc") is VOC
    assert label_map_files.read("coco") is COCO


@pytest.mark.parametrize("text", ["cat\npolar bear\n", "\ufeffcat\r\npolar bear"])
def test_a_file_names_a_class_a_line(tmp_path: Path, text: str):
    lay_out(tmp_path, {"voc": text.encode()})
    for uri in (str(tmp_path / "voc"), f"file://{tmp_path}/voc"):
        assert label_map_files.read(uri).names == ("background", "cat", "polar bear")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "classes.txt: not a label map: .* not 0"),
        (b"cat\n\ndog\n", "classes.txt: not a label map: line 2 is blank"),
        (b"cat\n\xff\xfe\n", "classes.txt: not a label map: .*utf-8"),
        (b"x\n" * 2**20, "classes.txt: 2097152 bytes, too many"),
    ],
)
def test_a_file_that_is_no_label_map_is_named(tmp_path: Path, content: bytes, message: str):
    lay_out(tmp_path, {"classes.txt": content})
    with pytest.raises(ValueError, match=message):
        label_map_files.read(str(tmp_path / "classes.txt"))


def test_a_label_map_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"VOC: no such file.*\(voc, coco\)"):
        label_map_files.read("VOC")
    with pytest.raises(FileNotFoundError, match="no such file"):
        label_map_files.read(str(tmp_path))
