"""Generated scenes: exact masks, classes that a part alone tells, the same bytes again."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.data import scenes
from c2am_dist.data.formats.pascal import parse_xml
from c2am_dist.data.prepare import write_shard
from c2am_dist.data.shard_plan import plan
from c2am_dist.method import images
from c2am_dist.method.label_maps import palette


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return [scenes.draw_scene(7, index, size_px=64) for index in range(200)]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_masks_hold_the_ids_of_the_objects_and_their_boxes_fit(drawn: list[scenes.Scene]):
    for scene in drawn:
        assert scene.mask.shape == scene.heads.shape == scene.image.shape[:2]
        ids = set(np.unique(scene.mask).tolist()) - {0}
        assert ids == {class_id for class_id, _ in scene.objects}
        inside = np.zeros(scene.mask.shape, bool)
        for class_id, (x0, y0, x1, y1) in scene.objects:
            assert (scene.mask[y0:y1, x0:x1] == class_id).any()
            inside[y0:y1, x0:x1] = True
        assert not scene.mask[~inside].any()


def test_every_class_and_every_number_of_objects_occurs(drawn: list[scenes.Scene]):
    ids = [class_id for scene in drawn for class_id, _ in scene.objects]
    counts = np.bincount(ids, minlength=len(scenes.CLASSES) + 1)[1:]
    assert len(counts) == 6 and counts.min() > 0.5 * counts.mean()
    assert {len(scene.objects) for scene in drawn} == {1, 2, 3}
    assert max(len({class_id for class_id, _ in scene.objects}) for scene in drawn) == 3


def test_a_third_of_each_object_tells_its_class(drawn: list[scenes.Scene]):
    for scene in drawn:
        assert not scene.heads[scene.mask == 0].any()
        for class_id in np.unique(scene.mask[scene.mask > 0]):
            assert scene.heads[scene.mask == class_id].any()
    alone = [scene for scene in drawn if len(scene.objects) == 1]
    shares = [scene.heads.sum() / (scene.mask > 0).sum() for scene in alone]
    assert len(shares) > 50 and np.abs(np.array(shares) - 1 / 3).max() < 0.05


def test_objects_are_more_colourful_than_what_lies_around_them(drawn: list[scenes.Scene]):
    spread = [np.ptp(scene.image.astype(int), axis=2) for scene in drawn]
    bodies = [(s.mask > 0) & (s.heads == 0) for s in drawn]
    inside = [c[body].mean() for c, body in zip(spread, bodies, strict=True) if body.any()]
    outside = [c[s.mask == 0].mean() for c, s in zip(spread, drawn, strict=True)]
    assert np.mean(inside) > 1.5 * np.mean(outside)


def test_the_line_around_objects_is_ignored_and_leaves_the_rest(drawn: list[scenes.Scene]):
    for scene in drawn[:20]:
        mask = scenes.outlined(scene, 1)
        changed = mask != scene.mask
        assert changed.any() and set(mask[changed].tolist()) == {255}
        assert changed.mean() < 0.15
        np.testing.assert_array_equal(scenes.outlined(scene, 0), scene.mask)


def test_scenes_are_laid_out_like_voc(tmp_path: Path):
    root = tmp_path / "set"
    scenes.write_voc_scenes(root, num_train=5, num_val=2, seed=1, size_px=48)
    written = files(root)
    assert written["classes.txt"].decode().split() == list(scenes.CLASSES)
    for folder in ("Main", "Segmentation"):
        assert written[f"ImageSets/{folder}/val.txt"] == b"000005\n000006\n"
    assert len(written) == 1 + 4 + 3 * 7
    for index in range(7):
        scene = scenes.draw_scene(1, index, size_px=48)
        png = written[f"SegmentationClass/{index:06d}.png"]
        np.testing.assert_array_equal(images.decode_mask(png), scenes.outlined(scene, 1))
        np.testing.assert_array_equal(images.decode(png), palette()[scenes.outlined(scene, 1)])
        boxes = parse_xml(written[f"Annotations/{index:06d}.xml"], first_pixel=1)
        named = zip(boxes.labels, boxes.edges, strict=True)
        assert [(label, tuple(map(int, edges))) for label, edges in named] == [
            (scenes.CLASSES[class_id - 1], box) for class_id, box in scene.objects
        ]


def test_the_same_arguments_write_the_same_scenes(tmp_path: Path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        scenes.write_voc_scenes(tmp_path / name, num_train=4, num_val=1, seed=seed, size_px=48)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")
    with pytest.raises(FileExistsError, match="JPEGImages"):
        scenes.write_voc_scenes(tmp_path / "a", num_train=1, num_val=1)


@pytest.mark.parametrize("has_boxes", [True, False])
def test_scenes_become_shards_whose_labels_are_their_classes(tmp_path: Path, has_boxes: bool):
    root, output = tmp_path / "set", tmp_path / "out"
    scenes.write_voc_scenes(root, num_train=8, num_val=2, seed=2, size_px=48)
    if not has_boxes:  # the masks' ids and classes.txt tell them, too
        for path in (root / "Annotations").iterdir():
            path.unlink()
    config = PrepareConfig(input=(str(root),), output=str(output), format="voc", split="train")
    (shard,) = plan(config).shards
    assert write_shard(shard).errors == ()
    rows = pq.read_table(output / "shard-00000-of-00001.parquet").to_pylist()
    assert len(rows) == 8
    for row in rows:
        scene = scenes.draw_scene(2, int(row["image_id"]), size_px=48)
        assert row["labels"] == sorted({scenes.CLASSES[i - 1] for i, _ in scene.objects})
        assert (row["boxes"] is not None) == has_boxes
        np.testing.assert_array_equal(images.decode_mask(row["mask"]), scenes.outlined(scene, 1))
