"""Cues joined to shards file by file, and carried to what the network sees."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from c2am_dist import schema
from c2am_dist.config import DataConfig
from c2am_dist.data import cue_sets, decode, feed, plan, shards, stream
from c2am_dist.data.cue_sets import CueSets
from c2am_dist.method import images
from tests.cues import write_cues
from tests.data.test_pseudo_boxes import marked

DATA = DataConfig(resize_px=40, crop_px=32, shuffle_images=20)


def number_of(image_id: str) -> int:
    return int(image_id.lstrip("abi"))


def cue_of(image_id: str) -> np.ndarray:
    """The same value everywhere, which tells whose it is."""
    return np.full((6, 9), number_of(image_id) / 255, np.float32)


def write_shards(folder: Path, ids: list[list[str]], *, row_group_size: int = 4) -> Path:
    """A shard for each list of images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, own in enumerate(ids):
        rows = [
            {"image_id": i, "image": picture(number_of(i)), "width": 9, "height": 6} for i in own
        ]
        table = pa.Table.from_pylist(rows, schema.SHARD)
        pq.write_table(table, folder / f"s{number}.parquet", row_group_size=row_group_size)
    return folder


def picture(value: int) -> bytes:
    """All of one grey, the same as its cue's."""
    return images.encode_png8(np.full((30, 50), value / 255, np.float32))


def ids_of(*numbers: int) -> list[list[str]]:
    """Names for shards of so many images, counted on."""
    ends = np.cumsum(numbers)
    return [
        [f"i{n}" for n in range(end - number, end)]
        for number, end in zip(numbers, ends, strict=True)
    ]


def read_all(cues: CueSets, groups: list[shards.RowGroup]) -> dict[str, int | None]:
    """Image -> the value of its cue."""
    found = {}
    for group in groups:
        for row in cues.read(group, ["image_id"]).to_pylist():
            data = row["background_cue"]
            value = None if data is None else round(float(images.decode_png8(data)[0, 0]) * 255)
            found[row["image_id"]] = value
    return found


@pytest.mark.parametrize("row_group_size", [100, 4, 3])
def test_every_image_has_its_own_cue_whatever_the_row_groups(tmp_path: Path, row_group_size: int):
    folder = write_shards(tmp_path / "shards", ids_of(10, 7))
    uri = write_cues(folder, tmp_path / "cues", cue_of, row_group_size=row_group_size)
    groups = shards.index([str(folder)])
    cues = cue_sets.join(groups, [uri])
    assert read_all(cues, groups) == {f"i{n}": n for n in range(17)}
    assert str(cues) == "data.cues: 17 images have a cue"
    limited = plan.limit(groups, 6)
    found = read_all(cues, limited)
    assert len(found) == 6 and all(number_of(name) == value for name, value in found.items())


def test_images_without_a_cue_are_counted(tmp_path: Path):
    folder = write_shards(tmp_path / "shards", ids_of(5, 4))

    def some(image_id: str) -> np.ndarray | None:
        return None if image_id in ("i1", "i7", "i8") else cue_of(image_id)

    uri = write_cues(folder, tmp_path / "cues", some)
    groups = shards.index([str(folder)])
    cues = cue_sets.join(groups, [uri])
    assert str(cues) == "data.cues: 6 images have a cue; 3 have none and teach nothing"
    found = read_all(cues, groups)
    assert [name for name, value in found.items() if value is None] == ["i1", "i7", "i8"]


def test_a_file_without_statistics_is_counted_all_the_same(tmp_path: Path):
    table = pa.table({"background_cue": pa.array([b"x", None, None], pa.binary())})
    pq.write_table(table, tmp_path / "f.parquet", write_statistics=False)
    uri = str(tmp_path / "f.parquet")
    assert shards.count_nulls(uri, "background_cue", schema.LABELS) == 2


def test_label_sets_of_folders_and_of_parts_are_told_apart(tmp_path: Path):
    """Each set knows its shards by their path below the folder it was made of."""
    write_shards(tmp_path / "x/a", [["a1", "a2"], ["a3"]])
    write_shards(tmp_path / "x/b", [["b4", "b5"], ["b6"]])
    groups = shards.index([str(tmp_path / "x/a"), str(tmp_path / "x/b")])
    expected = {"a1": 1, "a2": 2, "a3": 3, "b4": 4, "b5": 5, "b6": 6}
    one = write_cues(tmp_path / "x", tmp_path / "one", cue_of)
    assert read_all(cue_sets.join(groups, [one]), groups) == expected
    # Named alike, and of as many rows; the first image tells whose they are.
    parts = [write_cues(tmp_path / f"x/{n}", tmp_path / f"part-{n}", cue_of) for n in "ba"]
    assert read_all(cue_sets.join(groups, parts), groups) == expected


def test_the_digest_follows_the_cues_of_the_shards(tmp_path: Path):
    folder = write_shards(tmp_path / "shards", ids_of(4, 3))
    groups = shards.index([str(folder)])

    def other(image_id: str) -> np.ndarray:
        return cue_of("i9" if image_id == "i5" else image_id)

    digests = [
        cue_sets.join(groups, [write_cues(folder, tmp_path / str(n), cue)]).sha256
        for n, cue in enumerate((cue_of, cue_of, other))
    ]
    assert digests[0] == digests[1] != digests[2] and len(digests[0]) == 64


def test_label_sets_that_do_not_fit_are_refused_by_name(tmp_path: Path):
    folder = write_shards(tmp_path / "shards", ids_of(4, 3))
    groups = shards.index([str(folder)])
    one = write_cues(folder, tmp_path / "one", cue_of, names=["s0.parquet"])
    with pytest.raises(
        ValueError, match=r"shards/s1\.parquet: no label file of that name in .*one"
    ):
        cue_sets.join(groups, [one])
    both = write_cues(folder, tmp_path / "both", cue_of)
    with pytest.raises(ValueError, match=r"s0\.parquet: both label .*shards/s0\.parquet"):
        cue_sets.join(groups, [one, both])
    with pytest.raises(ValueError, match=r"one: none of its files are of shards in data\.train"):
        cue_sets.join([g for g in groups if g.uri.endswith("s1.parquet")], [one, both])
    none = write_cues(folder, tmp_path / "none", lambda _: None)
    with pytest.raises(ValueError, match=r"none: no image has a background cue; .*--write-cues"):
        cue_sets.join(groups, [none])
    with pytest.raises(ValueError, match=r"s0\.parquet: not the folder of a label set"):
        cue_sets.join(groups, [f"{both}/s0.parquet"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cue_sets.join(groups, [str(tmp_path / "nowhere")])
    Path(both, "_SUCCESS").unlink()
    with pytest.raises(ValueError, match=r"both: no _SUCCESS") as unfinished:
        cue_sets.join(groups, [both])
    assert "--" not in str(unfinished.value)  # training has no flag that would take such a set


def test_label_files_of_other_images_are_refused_with_both_names(tmp_path: Path):
    folder = write_shards(tmp_path / "shards", [["i0", "i1", "i2", "i3", "i4"]])
    uri = write_cues(folder, tmp_path / "cues", cue_of)
    for changed, message in (
        (
            ["i9", "i1", "i2", "i3", "i4"],
            r"cues/s0\.parquet: does not begin with image 'i9', as .*s0",
        ),
        (["i0", "i1", "i2", "i3"], r"cues/s0\.parquet: 5 rows, and .*shards/s0\.parquet has 4"),
    ):
        write_shards(folder, [changed])
        with pytest.raises(ValueError, match=message):
            cue_sets.join(shards.index([str(folder)]), [uri])
    write_shards(folder, [["i0", "i1", "i2", "i3", "i9"]])
    groups = shards.index([str(folder)])
    cues = cue_sets.join(groups, [uri])  # which it can only tell from all ids
    message = r"cues/s0\.parquet: row 4 is of image 'i4', in .*shards/s0\.parquet it is 'i9'"
    with pytest.raises(ValueError, match=message):
        read_all(cues, groups)


@pytest.mark.parametrize("seed", range(6))
def test_a_cue_goes_through_the_view_of_its_image(seed: int):
    """A box drawn into both; the cue is smaller than the image, and stands in with it."""
    box = (48, 16, 112, 56)
    cue = np.zeros((40, 80), np.float32)
    cue[8:28, 24:56] = 1
    found = decode.views_of(
        ["a", "b", "c"],
        pa.array([b"broken", marked(box, (80, 160)), marked(box, (80, 160))]),
        0,
        data=DATA,
        seed=seed,
        cues=pa.array([images.encode_png8(cue), images.encode_png8(cue), None]),
    )
    assert found.cues is not None and found.is_known is not None
    assert found.cues.shape == (3, 8, 8) and found.cues.dtype == np.uint8
    assert found.is_known.tolist() == [True, True, False]
    np.testing.assert_array_equal(found.cues[0], found.cues[1])  # the first image is replaced
    red = found.pixels[1, :, :, 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found.cues[1], red, atol=1)
    assert found.cues[1].any() and not found.cues[2].any()


def test_a_cue_that_cannot_be_read_names_its_image():
    with pytest.raises(ValueError, match=r"data\.cues: the cue of image 'b': not a 8-bit"):
        decode.views_of(
            ["a", "b"],
            pa.array([picture(1)] * 2),
            0,
            data=DATA,
            seed=0,
            cues=pa.array([picture(1), b"text"]),
        )


def test_crops_that_four_does_not_divide_are_rounded_up():
    data = DataConfig(resize_px=40, crop_px=35)
    pictures = pa.array([picture(7)])
    found = decode.views_of(["a"], pictures, 0, data=data, seed=0, cues=pictures)
    assert found.cues is not None and (found.cues == np.full((1, 9, 9), 7)).all()


@ray.remote(num_cpus=0)
def _consume(shard) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    parts = stream.worker_parts(shard, crop_px=DATA.crop_px)
    return [
        (part.step, np.array(part.images), np.array(part.cues), np.array(part.is_known))
        for part in parts
    ]


def test_the_stream_delivers_each_image_with_its_cue_also_after_a_resume(
    ray_cluster, tmp_path: Path
):
    """Every pixel of an image has the value of its cue."""
    folder = write_shards(tmp_path / "shards", ids_of(14, 12))
    uri = write_cues(folder, tmp_path / "cues", lambda i: None if i == "i0" else cue_of(i))
    groups = shards.index([str(folder)])
    cues = cue_sets.join(groups, [uri])

    def make(num_workers: int) -> ray.data.Dataset:
        return stream.parts(
            groups,
            data=DATA,
            seed=3,
            batch_size=8,
            num_workers=num_workers,
            start_step=2,
            total_steps=6,
            cues=cues,
        )

    feeds = feed.Feed(make).configure({"train": None}, 3)
    per_worker = ray.get([_consume.remote(feed["train"]) for feed in feeds])
    for worker in per_worker:
        assert [step for step, *_ in worker] == [2, 3, 4, 5]
        for _, pixels, shown, is_known in worker:
            values = pixels[:, 0, 0, 0]
            assert (is_known == (values != 0)).all()
            assert (shown == values[:, None, None]).all() and shown.shape[1:] == (8, 8)
