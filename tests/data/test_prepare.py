"""Data sets to shards: what is kept, what is listed as an error, and that bytes repeat."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.config import PrepareConfig
from c2am_dist.data.prepare import prepare, write_shard
from c2am_dist.data.shard_plan import plan
from tests.files import lay_out
from tests.images import encoded, noise

JOB = Path(__file__).parents[2] / "jobs" / "prepare.py"


def config(source: Path, output: Path, **options: object) -> PrepareConfig:
    return PrepareConfig(input=(str(source),), output=str(output), **options)  # type: ignore


def written(output: Path) -> dict[str, dict]:
    """All rows of a folder's shards by image_id."""
    tables = [pq.read_table(path) for path in sorted(output.glob("shard-*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def digests(output: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in output.iterdir()}


def test_row_groups_are_near_their_target(tmp_path: Path):
    files = {f"{n:02d}.png": encoded(noise((100, 100), seed=n), "PNG") for n in range(20)}
    source = lay_out(tmp_path / "in", files)  # about 30 kB each
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
    source = lay_out(tmp_path / "in", {"a.jpg": encoded(noise((9, 9))), "b.jpg": b"soon gone"})
    (shard,) = plan(config(source, tmp_path / "out")).shards
    (tmp_path / "in/b.jpg").unlink()
    (error,) = write_shard(shard).errors
    assert error["image_id"] == "b" and "b.jpg: no such file" in error["error"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    return lay_out(tmp_path_factory.mktemp("mixed"), {**good, **bad})


@pytest.mark.usefixtures("ray_cluster")
def test_images_go_to_shards_and_the_rest_to_errors(mixed: Path, tmp_path: Path):
    summary = prepare(config(mixed, tmp_path / "out", shard_mib=0.05, row_group_mib=0.01))
    rows = written(tmp_path / "out")
    assert (summary.num_images, summary.num_errors) == (len(rows), 3) == (40, 3)
    assert summary.num_shards == len(list((tmp_path / "out").glob("shard-*"))) > 1
    assert rows["cat/01"]["label"] == "cat" and rows["cat/01"]["width"] == 61
    assert rows["cat/01"]["image"] == (mixed / "cat/01.jpg").read_bytes()
    errors = pq.read_table(summary.errors_uri, schema=schema.ERRORS).to_pylist()
    assert [error["image_id"] for error in errors] == ["cat/cut", "cat/text", "dog/empty"]
    assert errors[1]["uri"] == f"{mixed}/cat/text.jpg"


@pytest.mark.usefixtures("ray_cluster")
def test_the_bytes_do_not_depend_on_the_number_of_workers(mixed: Path, tmp_path: Path):
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
    prepare(config(coco, tmp_path / "coco", format="yolo", annotations=str(coco / "yolo_boxes")))
    rows = written(tmp_path / "coco")
    assert len(rows) == 100 and all(row["mask"] for row in rows.values())
    prepare(config(shared / "data/raccoon-voc", tmp_path / "raccoon", format="voc"))
    rows = written(tmp_path / "raccoon")
    assert len(rows) == 200
    for row in rows.values():
        for x0, y0, x1, y1 in row["boxes"]:
            assert 0 <= x0 < x1 <= row["width"] and 0 <= y0 < y1 <= row["height"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_set_of_which_nothing_can_be_read_is_an_error_that_says_where(tmp_path: Path):
    source = lay_out(tmp_path / "in", {"a.jpg": b"x", "b.jpg": b""})
    with pytest.raises(ValueError, match=r"none of 2 images could be read.*errors\.parquet"):
        prepare(config(source, tmp_path / "out"))
    assert pq.read_table(tmp_path / "out/errors.parquet").num_rows == 2


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
