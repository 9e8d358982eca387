import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from c2am_dist import schema
from c2am_dist.config import DataConfig
from c2am_dist.data import decode, feed, plan, pseudo_boxes, shards, stream
from c2am_dist.method import images
from tests.images import write_shards
from tests.labeled import Labeled, picture, write_set

DATA = DataConfig(resize_px=40, crop_px=32, shuffle_images=20)
BATCH, STEPS = 12, 7  # 40 images: three steps an epoch, so over two epochs and a part


@pytest.fixture(scope="module")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    broken = {3: b"no picture", 17: b""}
    return write_shards(tmp_path_factory.mktemp("shards"), 40, broken=broken)


@ray.remote(num_cpus=0)
def _consume(shard) -> list[stream.Part]:
    return [
        dataclasses.replace(
            part,
            images=np.array(part.images),
            boxes=None if part.boxes is None else np.array(part.boxes),
        )
        for part in stream.worker_parts(shard, crop_px=DATA.crop_px)
    ]


def _global_batches(uri: str, *, num_workers: int, start_step: int = 0, classes=()):
    """Each step's images and labels over all workers, sorted, as bytes."""

    def make(num_workers: int) -> ray.data.Dataset:
        return stream.parts(
            shards.index([uri]),
            data=DATA,
            seed=3,
            batch_size=BATCH,
            num_workers=num_workers,
            start_step=start_step,
            total_steps=STEPS,
            classes=classes,
        )

    feeds = feed.Feed(make).configure({"train": None}, num_workers)
    per_worker = ray.get([_consume.remote(feed["train"]) for feed in feeds])
    steps = []
    for step, parts in enumerate(zip(*per_worker, strict=True), start_step):
        assert {part.step for part in parts} == {step}
        assert [len(part.images) for part in parts] == plan.part_sizes(BATCH, num_workers)
        pixels = np.concatenate([part.images for part in parts])
        assert pixels.shape == (BATCH, 32, 32, 3) and pixels.dtype == np.uint8
        labels = np.concatenate([part.labels for part in parts]) if classes else np.zeros(0, int)
        replaced = sum(int(part.is_replaced.sum()) for part in parts)
        keys = [image.tobytes() for image in pixels]
        order = sorted(range(BATCH), key=keys.__getitem__)
        steps.append(
            ([keys[i] for i in order], [int(labels[i]) for i in order if len(labels)], replaced)
        )
    return steps


def test_every_number_of_workers_gets_the_same_global_batches(ray_cluster, tmp_path: Path):
    uri = write_shards(tmp_path / "whole", 40)
    one = _global_batches(uri, num_workers=1)
    assert len(one) == STEPS
    assert len({key for keys, _, _ in one for key in keys}) > 40  # epochs augment anew
    assert _global_batches(uri, num_workers=2) == one
    assert _global_batches(uri, num_workers=5) == one  # parts of 3, 3, 2, 2 and 2


def test_resuming_delivers_the_remaining_steps_unchanged(ray_cluster, tmp_path: Path):
    uri = write_shards(tmp_path / "whole", 40)
    whole = _global_batches(uri, num_workers=2)
    assert _global_batches(uri, num_workers=2, start_step=4) == whole[4:]


def test_every_image_comes_with_its_own_box_also_after_a_resume(ray_cluster, tmp_path: Path):
    """Against the plan, the join and the decoder without Ray; two of 26 images have no box."""
    labeled = {
        f"i{n:02d}": Labeled(picture(), [(n, 0, n + 8, 20, 0.5)] if n % 13 else ())
        for n in range(26)
    }
    write_set(tmp_path, labeled)
    found = shards.index([str(tmp_path / "shards")])
    joined = pseudo_boxes.join(found, [str(tmp_path / "labels")])
    run = {"seed": 3, "batch_size": 8, "start_step": 2, "total_steps": 5}

    def make(num_workers: int) -> ray.data.Dataset:
        return stream.parts(
            joined.row_groups, data=DATA, num_workers=num_workers, boxes=joined.boxes, **run
        )

    feeds = feed.Feed(make).configure({"train": None}, 3)
    per_worker = ray.get([_consume.remote(feed["train"]) for feed in feeds])
    delivered = [list(parts) for parts in zip(*per_worker, strict=True)]
    windows = plan.Windows(row_groups=joined.row_groups, shuffle_images=DATA.shuffle_images, **run)
    step = 2
    for window in windows:
        tables = [joined.boxes.read(group, ["image_id", "image"]) for group in window.row_groups]
        rows = pa.concat_tables(tables).take(pa.array(window.order(3))).combine_chunks()
        boxes = decode.StoredBoxes(
            *(np.array(rows[name].to_pylist(), np.int32) for name in ("box", "size"))
        )
        encoded, ids = rows["image"].chunk(0), rows["image_id"].to_pylist()
        expected = decode.views_of(ids, encoded, window.epoch, data=DATA, seed=3, boxes=boxes)
        for start in range(0, len(ids), 8):
            parts, own = delivered[step - 2], slice(start, start + 8)
            assert [part.step for part in parts] == [step] * 3
            for ours, theirs in (
                ([part.images for part in parts], expected.pixels),
                ([part.boxes for part in parts], expected.boxes),
                ([part.is_visible for part in parts], expected.is_visible),
            ):
                np.testing.assert_array_equal(np.concatenate(ours), theirs[own])
            step += 1
    assert step == 5 == 2 + len(delivered)


def test_less_than_a_whole_free_cpu_is_enough(ray_cluster, tmp_path: Path):
    """As a sweep's trial leaves on two CPUs, whose own process and scorer have a little of one."""
    ready = ray.util.placement_group([{"CPU": 3.3}])
    assert ready.wait(60)
    try:
        windows, _ = ray.wait(
            [_num_steps.remote(write_shards(tmp_path / "whole", 40))], timeout=120
        )
        assert windows, "the stream waits for ever"
        assert ray.get(windows) == [STEPS]
    finally:
        ray.util.remove_placement_group(ready)


@ray.remote(num_cpus=0)
def _num_steps(uri: str) -> int:
    return len(_global_batches(uri, num_workers=1))


def test_broken_images_are_replaced_and_counted_with_their_labels(ray_cluster, image_set: str):
    classes = shards.classes_of(shards.index([image_set], columns=["image_id", "image", "label"]))
    steps = _global_batches(image_set, num_workers=2, classes=classes)
    per_epoch = 2  # of 40 images two are broken; an epoch leaves four out
    assert 0 < sum(replaced for _, _, replaced in steps) <= per_epoch * 3
    for keys, labels, _ in steps:
        assert len(keys) == len(labels) == BATCH
        assert set(labels) <= set(range(len(classes)))


@ray.remote(num_cpus=0)
def _label_rows(shard) -> list[tuple[np.ndarray, np.ndarray]]:
    parts = stream.worker_parts(shard, crop_px=DATA.crop_px, num_classes=3)
    return [(np.array(part.images[:, 0, 0, 0]), np.array(part.labels)) for part in parts]


def test_images_come_with_all_their_classes(ray_cluster, tmp_path: Path):
    """Each image is of one grey, and its number's bits are its classes; one has none."""
    rows = []
    for number in range(8):
        classes = [name for bit, name in enumerate("abc") if number >> bit & 1]
        grey = np.full((40, 40), number / 255, np.float32)
        image = b"broken" if number == 7 else images.encode_png8(grey)
        rows.append({"image_id": f"i{number}", "image": image, "labels": classes})
    columns = {f.name: f.type for f in schema.SHARD if f.name in rows[0]}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), tmp_path / "s.parquet")
    groups = shards.index([str(tmp_path)], columns=["image_id", "image", "labels"])

    def make(num_workers: int) -> ray.data.Dataset:
        return stream.parts(
            groups,
            data=DATA,
            seed=0,
            batch_size=8,
            num_workers=num_workers,
            start_step=0,
            total_steps=2,
            classes=shards.classes_of_lists(groups),
            label_column="labels",
        )

    feeds = feed.Feed(make).configure({"train": None}, 2)
    per_worker = ray.get([_label_rows.remote(feed["train"]) for feed in feeds])
    for greys, labels in (part for parts in per_worker for part in parts):
        assert labels.dtype == np.int8
        np.testing.assert_array_equal(labels, greys[:, None] >> np.arange(3) & 1)


@pytest.mark.parametrize("num_workers", [2, 3, 50])
def test_workers_share_a_fixed_sample_without_its_broken_images(image_set: str, num_workers: int):
    def sample(rank: int, num_workers: int) -> list[bytes]:
        row_groups = shards.index([image_set])
        found = stream.sample(
            row_groups, num_images=30, rank=rank, num_workers=num_workers, data=DATA
        )
        assert all(image.shape == (32, 32, 3) for image in found)
        return [image.tobytes() for image in found]

    alone = sample(0, 1)
    assert len(set(alone)) == 28
    shares = [sample(rank, num_workers) for rank in range(num_workers)]
    assert sorted(image for share in shares for image in share) == sorted(alone)


def test_a_part_of_broken_images_only_names_one():
    with pytest.raises(ValueError, match="lost"):
        decode.views_of(["lost"], pa.array([b"x"]), 0, data=DATA, seed=0)


class TestIndex:
    def test_a_missing_path_is_named(self):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet"):
            shards.index(["nowhere.parquet"])

    def test_a_missing_column_is_named_with_its_file(self, tmp_path: Path):
        pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "s.parquet")
        with pytest.raises(ValueError, match=r"s\.parquet: column 'image' is missing"):
            shards.index([str(tmp_path)])

    def test_a_column_of_another_type_is_named_with_both_types(self, tmp_path: Path):
        pq.write_table(pa.table({"image_id": [1], "image": [b"x"]}), tmp_path / "s.parquet")
        with pytest.raises(ValueError, match=r"'image_id' is int64, expected string"):
            shards.index([str(tmp_path)])

    def test_a_file_that_is_not_parquet_is_named(self, tmp_path: Path):
        (tmp_path / "s.parquet").write_bytes(b"text")
        with pytest.raises(ValueError, match=r"s\.parquet: not a Parquet file"):
            shards.index([str(tmp_path)])

    def test_an_empty_shard_is_passed_over_and_an_empty_set_refused(self, tmp_path: Path):
        empty = pa.table(
            {"image_id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}
        )
        pq.write_table(empty, tmp_path / "empty.parquet")
        with pytest.raises(ValueError, match="hold no image"):
            shards.index([str(tmp_path)])
        write_shards(tmp_path, 4, num_files=1)
        assert sum(group.num_rows for group in shards.index([str(tmp_path)])) == 4

    def test_large_types_of_other_writers_are_read(self, tmp_path: Path):
        table = pa.table(
            {
                "image_id": pa.array(["a"], pa.large_string()),
                "image": pa.array([b"x"], pa.large_binary()),
            }
        )
        pq.write_table(table, tmp_path / "s.parquet")
        (group,) = shards.index([str(tmp_path)])
        assert shards.read(group, ["image_id", "image"]).to_pylist() == [
            {"image_id": "a", "image": b"x"}
        ]

    def test_an_unlabeled_image_is_refused_for_a_classifier(self, tmp_path: Path):
        table = pa.Table.from_pylist(
            [{"image_id": "a", "image": b"x", "width": 1, "height": 1, "label": None}],
            pa.schema(
                [
                    pa.field(n, t)
                    for n, t in zip(
                        ["image_id", "image", "width", "height", "label"],
                        [pa.string(), pa.binary(), pa.int32(), pa.int32(), pa.string()],
                        strict=True,
                    )
                ]
            ),
        )
        pq.write_table(table, tmp_path / "s.parquet")
        with pytest.raises(ValueError, match=r"s\.parquet: 1 images without a label"):
            shards.classes_of(shards.index([str(tmp_path)]))

    def test_a_single_class_is_refused_for_a_classifier(self, tmp_path: Path):
        table = pa.table({"image_id": ["a", "b"], "image": [b"x", b"y"], "label": ["cat", "cat"]})
        pq.write_table(table, tmp_path / "s.parquet")
        with pytest.raises(ValueError, match="all images have the label 'cat'"):
            shards.classes_of(shards.index([str(tmp_path)]))

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            ([["cat"], None], r"s\.parquet: image 'i1' without labels, one of 1"),
            ([["cat"], [None]], r"s\.parquet: a class in column 'labels' has no name"),
            ([[], []], r"data\.train: no image has a class"),
        ],
    )
    def test_images_without_a_list_of_classes_are_refused_by_name(
        self, tmp_path: Path, lists: list, message: str
    ):
        groups = self.listed(tmp_path, lists)
        with pytest.raises(ValueError, match=message):
            shards.classes_of_lists(groups)

    def test_classes_of_lists_are_sorted_and_may_be_few(self, tmp_path: Path):
        groups = self.listed(tmp_path, [["emu", "cat"], [], ["ant", "cat"]])
        assert shards.classes_of_lists(groups) == ["ant", "cat", "emu"]

    def listed(self, folder: Path, lists: list) -> list[shards.RowGroup]:
        columns = {
            "image_id": [f"i{n}" for n in range(len(lists))],
            "image": [b"x"] * len(lists),
            "labels": pa.array(lists, pa.list_(pa.string())),
        }
        pq.write_table(pa.table(columns), folder / "s.parquet", row_group_size=2)
        return shards.index([str(folder)], columns=list(columns))
