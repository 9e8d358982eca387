"""Data sets that somebody else made: names that lead elsewhere, files that ask for too much."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import Boxes, Item, list_items
from c2am_dist.data.formats.yolo import parse_txt
from c2am_dist.data.prepare import make_row, write_shard
from c2am_dist.data.shard_plan import plan
from c2am_dist.method import images
from tests import bombs
from tests.files import lay_out


def picture(colour: int = 9) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


PNG, SECRET = picture(), picture(200)


def prepared(root: Path, kind: str, **options: Any) -> tuple[dict[str, bytes], dict[str, str]]:
    """What a set becomes, without Ray: the images of its shard, and its errors, by image_id."""
    output = root.parent / "out"
    config = PrepareConfig(input=(str(root),), output=str(output), format=kind, **options)  # type: ignore
    (shard,) = plan(config).shards
    errors = {error["image_id"]: error["error"] for error in write_shard(shard).errors}
    rows = pq.read_table(output / "shard-00000-of-00001.parquet").to_pylist()
    return {row["image_id"]: row["image"] for row in rows}, errors


# Tars


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return str(path)


def listed(uri: str) -> list[Item]:
    return list_items(PrepareConfig(input=(uri,), output="unused", format="webdataset"))


@pytest.mark.parametrize(
    "name",
    [
        "../x.png", "a/../../x.png", "/etc/x.png", "..", "a\\..\\x.png", "C:\\x.png", "c:x.png",
        "a\x1b[2J.png", "a\n.png", "a\x9b2J.png", "\udcff.png",
    ],
)  # fmt: skip
def test_a_member_whose_name_leads_elsewhere_is_refused(tmp_path: Path, name: str):
    uri = tar(tmp_path / "bad.tar", member("good.png", PNG), member(name, PNG))
    with pytest.raises(ValueError) as refused:
        listed(uri)
    assert str(refused.value).startswith(f"{uri}: member {name!r} must be a relative path")
    assert str(refused.value).isprintable()


def test_a_nul_in_a_members_name_is_refused(tmp_path: Path):
    hidden = member("a", PNG, pax_headers={"path": "a.txt\0.png"})
    with pytest.raises(ValueError, match=r"bad\.tar: member 'a\.txt\\x00\.png'"):
        listed(tar(tmp_path / "bad.tar", hidden))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
)
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes):
    other = member("x.png", type=kind, linkname="/etc/passwd")
    with pytest.raises(ValueError, match=r"bad\.tar: member 'x\.png' is a link, a device or"):
        listed(tar(tmp_path / "bad.tar", member("good.png", PNG), other))


def test_a_member_with_holes_is_refused_before_it_is_read(tmp_path: Path):
    headers = {"major": "0", "minor": "1", "name": "a.json", "size": str(2**40), "map": "0,4"}
    headers = {f"GNU.sparse.{key}": value for key, value in headers.items()}
    uri = tar(tmp_path / "bad.tar", member("a.json", b"null", pax_headers=headers))
    with pytest.raises(ValueError, match=r"bad\.tar: member 'a\.json' is a link, a device or"):
        listed(uri)


def test_a_member_of_negative_size_does_not_lead_back_forever(tmp_path: Path):
    # The second header says that the next one is 512 bytes before itself: the first one.
    back = member("b.png", pax_headers={"size": "-3072"})
    uri = tar(tmp_path / "bad.tar", member("a.png", b""), back, member("c.png", PNG))
    with pytest.raises(ValueError, match=r"bad\.tar: member 'b\.png' has -3072 bytes"):
        listed(uri)


def test_a_header_that_claims_more_than_memory_is_refused(tmp_path: Path):
    header = bytearray(Path(tar(tmp_path / "bad.tar", member("a.png"))).read_bytes()[:512])
    header[124:136] = b"\x80" + (2**50).to_bytes(11, "big")
    header[156:157] = b"x"  # more about the next member, to be read at once
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "bad.tar").write_bytes(header + bytes(1024))
    with pytest.raises(ValueError, match=r"bad\.tar: a header claims too much"):
        listed(str(tmp_path / "bad.tar"))


def test_a_text_of_any_length_is_not_read(tmp_path: Path):
    text = member("a.txt", b"x" * (16 * 2**20 + 1))
    with pytest.raises(ValueError, match=r"bad\.tar: member 'a\.txt' has more than 16777216"):
        listed(tar(tmp_path / "bad.tar", member("a.png", PNG), text))


def test_folders_in_a_tar_are_passed_over(tmp_path: Path):
    folder = member("./x", type=tarfile.DIRTYPE)
    uri = tar(tmp_path / "good.tar", folder, member("./x/a.b.png", b""), member("./x/a.png", PNG))
    assert [item.image_id for item in listed(uri)] == ["x/a"]


def test_json_nested_without_end_names_the_sample(tmp_path: Path):
    nested = member("a.json", b"[" * 100_000)
    with pytest.raises(ValueError, match=r"bad\.tar: sample 'a': unreadable annotation"):
        listed(tar(tmp_path / "bad.tar", member("a.png", PNG), nested))


# Ids


def coco(*file_names: str, category: str = "cat") -> str:
    found = [
        {"id": index, "file_name": name, "width": 40, "height": 30}
        for index, name in enumerate(file_names)
    ]
    box = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}
    return json.dumps(
        {"images": found, "categories": [{"id": 1, "name": category}], "annotations": [box]}
    )


LISTS_WITH_A_WAY_OUT: dict[str, dict[str, str | bytes]] = {
    "coco": {"in.png": PNG, "instances_x.json": coco("in.png", "../outside.png")},
    "cub": {"images/in.png": PNG, "images.txt": "1 in.png\n2 ../../outside.png\n"},
    "voc": {
        "JPEGImages/in.png": PNG,
        "ImageSets/Main/train.txt": "in\n../../outside\n",
    },
}


@pytest.mark.parametrize("kind", LISTS_WITH_A_WAY_OUT)
def test_an_image_outside_of_the_set_is_an_error_and_not_read(tmp_path: Path, kind: str):
    for name in ("outside.png", "outside.jpg"):
        (tmp_path / name).write_bytes(SECRET)
    root = lay_out(tmp_path / "set", LISTS_WITH_A_WAY_OUT[kind])
    found, errors = prepared(root, kind, **({"split": "train"} if kind == "voc" else {}))
    assert found == {"in": PNG}
    ((image_id, reason),) = errors.items()
    assert image_id.endswith("../outside") and "must be a relative path" in reason


def test_a_file_name_that_is_no_id_is_an_error_row_fit_for_a_terminal(tmp_path: Path):
    root = lay_out(tmp_path / "set", {"good.png": PNG, "a\x1b[2J.png": PNG, "b\\c.png": PNG})
    found, errors = prepared(root, "folder")
    assert found == {"good": PNG}
    assert set(errors) == {r"a\x1b[2J", r"b\c"}
    assert all(reason.isprintable() for reason in errors.values())


@pytest.mark.parametrize(
    ("content", "image_id", "reason"),
    [
        (coco("\ud800.png"), r"\ud800", "must be a relative path"),
        (coco("in.png", category="\ud800"), "in", "annotation: 'utf-8' codec can't encode"),
    ],
)
def test_half_a_character_is_an_error_row(tmp_path: Path, content: str, image_id: str, reason: str):
    root = lay_out(tmp_path / "set", {"in.png": PNG, "instances_x.json": content})
    found, errors = prepared(root, "coco")
    assert not found and reason in errors[image_id]


def test_a_name_that_is_not_utf8_is_refused_with_its_folder(tmp_path: Path):
    Path(str(tmp_path), "set").mkdir()
    (tmp_path / "set" / "\udcff.png").write_bytes(PNG)  # how Python writes a stray byte
    with pytest.raises(ValueError, match=r"set: a name in it is not UTF-8: b'.*\\xff\.png'"):
        storage.walk(str(tmp_path / "set"))


# Annotations


@pytest.mark.parametrize("frame", [None, (1e-300, 1e-300)])
def test_a_box_beyond_all_numbers_is_an_error(frame: tuple[float, float] | None):
    boxes = Boxes(((1e308, 0, 1.7e308, 1e308),), ("x",), frame)
    item = Item("x", image=None, boxes=boxes)  # type: ignore
    with pytest.raises(ValueError, match="annotation: cannot convert float infinity"):
        make_row(item, PNG)


def test_a_class_beyond_all_numbers_is_an_error(tmp_path: Path):
    with pytest.raises(OverflowError):
        parse_txt(b"inf 0.5 0.5 0.1 0.1", names={})
    files: dict[str, str | bytes] = {"images/a.png": PNG, "images/b.png": PNG}
    files |= {"labels/a.txt": "inf 0.5 0.5 0.1 0.1", "labels/b.txt": ""}
    found, errors = prepared(lay_out(tmp_path / "set", files), "yolo")
    assert set(found) == {"b"} and "annotation: cannot convert" in errors["a"]


def test_xml_that_multiplies_itself_is_an_error_row(tmp_path: Path):
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "0123456789">{entities}]><a>&e11;</a>'
    files: dict[str, str | bytes] = {f"JPEGImages/{name}.png": PNG for name in "ab"}
    root = lay_out(tmp_path / "set", {**files, "Annotations/a.xml": bomb})
    found, errors = prepared(root, "voc")
    assert set(found) == {"b"} and "annotation: not XML" in errors["a"]


def test_yaml_that_multiplies_itself_is_refused_by_name(tmp_path: Path):
    lines = ["e0: &e0 [x, x]", *(f"e{i}: &e{i} [*e{i - 1}, *e{i - 1}]" for i in range(1, 60))]
    files: dict[str, str | bytes] = {"images/a.png": PNG, "labels/a.txt": ""}
    files["data.yaml"] = "\n".join([*lines, "names: *e59"])
    with pytest.raises(ValueError, match=r"data\.yaml: no list of class names"):
        prepared(lay_out(tmp_path / "set", files), "yolo")


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"images": [[]], "categories": []}', '{"images": 1, "categories": "x"}'],
)
def test_json_that_makes_no_sense_is_refused_by_name(tmp_path: Path, content: str):
    root = lay_out(tmp_path / "set", {"in.png": PNG, "instances_x.json": content})
    with pytest.raises(ValueError, match=r"instances_x\.json: not COCO's instances format"):
        prepared(root, "coco")


# Images and masks


def test_an_image_file_of_any_size_is_an_error_row_and_not_read(tmp_path: Path):
    root = lay_out(tmp_path / "set", {"in.png": PNG})
    bombs.sparse_file(root / "huge.png", 2**40)
    found, errors = prepared(root, "folder", shard_mib=2e6)
    assert set(found) == {"in"} and "huge.png: 1099511627776 bytes" in errors["huge"]


def test_a_mask_that_unpacks_to_300_megapixels_is_an_error_row(tmp_path: Path):
    bomb = bombs.png(20_000, 15_000, bits=1)
    assert len(bomb) < 40_000
    files: dict[str, str | bytes] = {f"JPEGImages/{name}.png": PNG for name in "ab"}
    root = lay_out(tmp_path / "set", {**files, "SegmentationClass/a.png": bomb})
    found, errors = prepared(root, "voc")
    assert set(found) == {"b"} and "mask: 20000x15000 is 300 megapixels" in errors["a"]


def test_a_jpeg_of_endless_scans_is_an_error():
    assert images.decode(bombs.progressive_jpeg(64, num_scans=10)).shape == (64, 64, 3)
    bomb = bombs.progressive_jpeg(9_900, num_scans=20_000)
    assert len(bomb) < 4_000_000
    with pytest.raises(images.ImageError, match="more than 500 scans"):
        images.decode(bomb, min_side_px=224)


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path):
    huge = bombs.sparse_file(tmp_path / "manifest.json", 2**40)
    with pytest.raises(storage.StorageError, match=rf"^{huge}: 1099511627776 bytes, at most"):
        storage.read_bytes(str(huge))
    with pytest.raises(storage.StorageError, match=rf"^{huge}: 1099511627776 bytes, at most"):
        storage.read_range(str(huge), offset=0, size_bytes=2**40)
