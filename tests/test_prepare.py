"""Data sets to shards: what is kept, what is listed as an error, and that bytes repeat."""

import hashlib
import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from c2am_dist import schema
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import Blob, Boxes, Item
from c2am_dist.data.prepare import make_row, prepare, write_shard
from c2am_dist.data.shard_plan import cut, order, plan

JOB = Path(__file__).parents[1] / "jobs" / "prepare.py"

SIXTEEN_BITS = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture (width, height) that does not compress."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4, "CMYK": 4}[mode]
    shape = (size[1], size[0], channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def config(source: str, output: Path, **options: object) -> PrepareConfig:
    return PrepareConfig(input=(source,), output=str(output), **options)  # type: ignore


def written(output: Path) -> dict[str, dict]:
    """All rows of a folder's shards by image_id."""
    tables = [pq.read_table(path) for path in sorted(output.glob("shard-*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def digests(output: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in output.iterdir()}


def make(image: bytes, mask: bytes | None = None, **options: object) -> dict:
    return make_row(Item("x", Blob("x.jpg", len(image)), **options), image, mask)  # type: ignore


# Planning


def items_of(*sizes: int) -> list[Item]:
    return [Item(f"{n:03d}", Blob(f"{n:03d}.jpg", size)) for n, size in enumerate(sizes)]


def test_shards_are_near_their_target_and_hold_every_item_once():
    sizes = np.random.default_rng(1).integers(50, 150, 400).tolist()
    items = items_of(*sizes)
    shards = cut(items, shard_bytes=4000)
    assert [item for shard in shards for item in shard] == items
    assert all(3500 < sum(item.size_bytes for item in shard) < 4500 for shard in shards)


@pytest.mark.parametrize("sizes", [(1,), (5000, 1, 1), (1, 1, 5000), (0, 0, 0), (1, 5000, 1)])
def test_no_shard_is_planned_empty(sizes: tuple[int, ...]):
    shards = cut(items_of(*sizes), shard_bytes=1000)
    assert all(shards) and sum(len(shard) for shard in shards) == len(sizes)


def test_the_order_repeats_and_follows_the_seed():
    items = items_of(*range(50))
    assert order(items, 3) == order(items, 3)
    assert order(items, 3) != order(items, 4)
    assert sorted(order(items, 3), key=lambda item: item.image_id) == items
    assert order(items, None) == items


# One image


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(noise((40, 30))), (40, 30)),
        (encoded(noise((40, 30), "L")), (40, 30)),
        (encoded(noise((40, 30), "CMYK")), (40, 30)),
        (encoded(noise((1, 1))), (1, 1)),
        (encoded(noise((40, 30), "RGBA"), "PNG"), (40, 30)),
        (encoded(noise((40, 30)).quantize(16), "PNG"), (40, 30)),
        (
            encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG"),
            (40, 30),
        ),
        (encoded(noise((40, 30)), "GIF"), (40, 30)),
        (encoded(noise((40, 30)), "WEBP"), (40, 30)),
    ],
    ids=["rgb", "gray", "cmyk", "1x1", "alpha", "palette", "16-bit", "gif", "webp"],
)
def test_any_kind_of_image_is_kept_untouched(data: bytes, size: tuple[int, int]):
    row = make(data)
    assert (row["image"], row["width"], row["height"]) == (data, *size)


def test_sizes_and_boxes_are_those_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 40x30, shown 30x40
    data = encoded(noise((40, 30)), exif=exif)
    row = make(data, boxes=Boxes(((5, 10, 30, 40),), ("cat",)))
    assert (row["width"], row["height"], row["boxes"]) == (30, 40, [[5, 10, 30, 40]])
    assert row["image"] == data
    with pytest.raises(ValueError, match="annotation: annotated at 40x30"):
        make(data, boxes=Boxes(((5, 10, 30, 30),), ("cat",), (40, 30)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just some text", "not an image"),
        (encoded(noise((200, 200)))[:-9000], "JPEG"),
        (encoded(noise((200, 200)), progressive=True)[:-9000], "JPEG"),
        (encoded(noise((200, 200)), "PNG")[:-9000], "PNG"),
    ],
    ids=["empty", "text", "cut JPEG", "cut progressive JPEG", "cut PNG"],
)
def test_what_is_no_whole_image_is_refused_with_a_reason(data: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        make(data)


def test_a_png_of_200_megapixels_is_refused_before_it_is_decoded():
    data = bytearray(encoded(noise((40, 30)), "PNG"))
    data[16:24] = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="20000x10000 is 200 megapixels"):
        make(bytes(data))


def test_masks_of_ids_are_kept_as_they_are():
    for mode in ("L", "P"):
        mask = Image.new(mode, (40, 30), 7)
        if mode == "P":
            mask.putpalette(range(48))
        data = encoded(mask, "PNG")
        assert make(encoded(noise((40, 30))), data)["mask"] == data


def test_other_masks_become_png_of_ids():
    image = encoded(noise((40, 30)))
    stored = make(image, encoded(Image.new("L", (40, 30), 7), "BMP"))["mask"]
    assert stored.startswith(b"\x89PNG")
    assert np.unique(np.asarray(Image.open(io.BytesIO(stored)))).tolist() == [7]
    shares = np.repeat(np.array([0, 51, 102, 153, 204, 255], np.uint8), 200).reshape(30, 40)
    drawn = encoded(Image.fromarray(shares), "PNG")
    stored = make(image, drawn, is_agreement_mask=True)["mask"]
    ids = np.asarray(Image.open(io.BytesIO(stored))).ravel()
    assert ids.tolist() == [0] * 600 + [1] * 600


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (b"", "mask: empty file"),
        (encoded(noise((40, 30)), "PNG"), "mask: a mask has one 8-bit channel"),
        (encoded(noise((30, 40), "L"), "PNG"), "mask: 30x40, but the image is 40x30"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(mask: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        make(encoded(noise((40, 30))), mask)


# One shard, without Ray


def test_row_groups_are_near_their_target(tmp_path: Path):
    files = {f"{n:02d}.png": encoded(noise((100, 100), seed=n), "PNG") for n in range(20)}
    source = write(tmp_path / "in", files)  # about 30 kB each
    (shard,) = plan(config(source, tmp_path / "out", row_group_mib=0.1, shuffle_seed=None)).shards
    result = write_shard(shard)
    with pq.ParquetFile(tmp_path / "out/shard-00000-of-00001.parquet") as file:
        rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        assert rows == [4] * 5
        assert file.schema_arrow.equals(schema.SHARD)
        assert file.schema_arrow.metadata[b"c2am_dist.prepare"]
        assert file.read().column("image_id").to_pylist() == sorted(n[:2] for n in files)
    assert result.num_images == 20
    assert result.num_bytes == (tmp_path / "out/shard-00000-of-00001.parquet").stat().st_size


def test_a_missing_file_is_an_error_row_that_names_it(tmp_path: Path):
    source = write(tmp_path / "in", {"a.jpg": encoded(noise((9, 9))), "b.jpg": b"soon gone"})
    (shard,) = plan(config(source, tmp_path / "out")).shards
    (tmp_path / "in/b.jpg").unlink()
    (error,) = write_shard(shard).errors
    assert error["image_id"] == "b" and "b.jpg: no such file" in error["error"]


# The whole job


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty images in two classes and three files that are none."""
    good = {
        f"{'cat' if n % 2 else 'dog'}/{n:02d}.jpg": encoded(noise((60 + n, 50), seed=n))
        for n in range(40)
    }
    bad = {
        "cat/cut.jpg": encoded(noise((90, 90)))[:-2000],
        "cat/text.jpg": b"no image",
        "dog/empty.png": b"",
    }
    return write(tmp_path_factory.mktemp("mixed"), {**good, **bad})


@pytest.mark.usefixtures("ray_cluster")
def test_images_go_to_shards_and_the_rest_to_errors(mixed: str, tmp_path: Path):
    summary = prepare(config(mixed, tmp_path / "out", shard_mib=0.05, row_group_mib=0.01))
    rows = written(tmp_path / "out")
    assert (summary.num_images, summary.num_errors) == (len(rows), 3) == (40, 3)
    assert summary.num_shards == len(list((tmp_path / "out").glob("shard-*"))) > 1
    assert rows["cat/01"]["label"] == "cat" and rows["cat/01"]["width"] == 61
    assert rows["cat/01"]["image"] == (Path(mixed) / "cat/01.jpg").read_bytes()
    errors = pq.read_table(summary.errors_uri, schema=schema.ERRORS).to_pylist()
    assert [error["image_id"] for error in errors] == ["cat/cut", "cat/text", "dog/empty"]
    assert errors[1]["uri"] == f"{mixed}/cat/text.jpg"


@pytest.mark.usefixtures("ray_cluster")
def test_the_bytes_do_not_depend_on_the_number_of_workers(mixed: str, tmp_path: Path):
    options = {"shard_mib": 0.02, "row_group_mib": 0.01}
    prepare(config(mixed, tmp_path / "many", **options))
    for shard in plan(config(mixed, tmp_path / "one", **options)).shards:
        write_shard(shard)  # in this process, in turn
    expected = digests(tmp_path / "many")
    assert expected.pop("errors.parquet")
    assert digests(tmp_path / "one") == expected and len(expected) > 3


@pytest.mark.usefixtures("ray_cluster")
def test_raccoons_and_coco_become_shards(shared: Path, tmp_path: Path):
    coco = shared / "data/coco128"
    prepare(
        config(str(coco), tmp_path / "coco", format="yolo", annotations=str(coco / "yolo_boxes"))
    )
    rows = written(tmp_path / "coco")
    assert len(rows) == 100 and all(row["mask"] for row in rows.values())
    prepare(config(str(shared / "data/raccoon-voc"), tmp_path / "raccoon", format="voc"))
    rows = written(tmp_path / "raccoon")
    assert len(rows) == 200
    for row in rows.values():
        for x0, y0, x1, y1 in row["boxes"]:
            assert 0 <= x0 < x1 <= row["width"] and 0 <= y0 < y1 <= row["height"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_set_of_which_nothing_can_be_read_is_an_error_that_says_where(tmp_path: Path):
    source = write(tmp_path / "in", {"a.jpg": b"x", "b.jpg": b""})
    with pytest.raises(ValueError, match=r"none of 2 images could be read.*errors\.parquet"):
        prepare(config(source, tmp_path / "out"))
    assert pq.read_table(tmp_path / "out/errors.parquet").num_rows == 2


def test_a_folder_that_holds_files_is_refused_by_name(mixed: str, tmp_path: Path):
    write(tmp_path / "out", {"old.parquet": b"x"})
    with pytest.raises(ValueError, match=r"out: must be empty.*old\.parquet"):
        plan(config(mixed, tmp_path / "out"))


def test_what_is_not_given_or_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="input must be given"):
        plan(PrepareConfig(output="out"))
    with pytest.raises(ValueError, match="output must be given"):
        plan(PrepareConfig(input=("in",)))
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        plan(config(str(tmp_path / "nowhere"), tmp_path / "out"))


# The script


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOB), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--formatt", "voc"], "--formatt"),
        (["--format", "vocc"], "vocc"),
        (["--input", "in", "--output", "out", "--shard-mib", "0"], "shard_mib must be"),
    ],
)
def test_a_flag_that_means_nothing_ends_the_job_with_status_2(arguments: list[str], culprit: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert culprit in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "nowhere", "--output", "out"], "error: nowhere: no such file or folder"),
        (["--output", "out"], "error: input must be given (--input URI)"),
    ],
)
def test_a_caller_s_mistake_is_one_line_and_status_1(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
