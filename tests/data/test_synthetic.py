from pathlib import Path

import cv2
import numpy as np
import pytest

from c2am_dist.data import synthetic
from c2am_dist.data.formats.pascal import parse_xml
from c2am_dist.method import images


@pytest.fixture(scope="module")
def samples() -> list[synthetic.Sample]:
    return [synthetic.draw_sample(7, index, size_px=64) for index in range(400)]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_an_image_follows_from_seed_and_index():
    first, again = synthetic.draw_sample(3, 5), synthetic.draw_sample(3, 5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    for other in (synthetic.draw_sample(3, 6), synthetic.draw_sample(4, 5)):
        assert other.image.shape != first.image.shape or (other.image != first.image).any()


def test_sides_stay_near_the_size_asked_for(samples):
    sides = np.array([sample.image.shape[:2] for sample in samples])
    assert sides.min() >= 56 and sides.max() <= 72
    assert len(np.unique(sides)) > 10


def test_every_mask_holds_one_object_inside_the_image(samples):
    for sample in samples:
        assert sample.mask.shape == sample.image.shape[:2]
        assert set(np.unique(sample.mask)) == {0, 1}
        assert 0.005 < sample.mask.mean() < 0.9
        x0, y0, x1, y1 = synthetic.box_of(sample.mask)
        assert sample.mask[y0:y1, x0:x1].sum() == sample.mask.sum()
        for edge in (
            sample.mask[y0],
            sample.mask[y1 - 1],
            sample.mask[:, x0],
            sample.mask[:, x1 - 1],
        ):
            assert edge.any()


def test_every_class_occurs_about_equally_often(samples):
    counts = np.bincount([sample.label for sample in samples], minlength=len(synthetic.CLASSES))
    assert len(counts) == len(set(synthetic.CLASSES)) >= 10
    assert counts.min() > 0.4 * counts.mean()


def test_no_centred_box_finds_many_objects(samples):
    boxes = np.array([synthetic.box_of(sample.mask) for sample in samples], float)
    sizes = np.array([sample.mask.shape[::-1] for sample in samples], float)
    boxes /= np.tile(sizes, 2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    rates = []
    for side in np.arange(0.1, 1.01, 0.05):
        low, high = (1 - side) / 2, (1 + side) / 2
        overlap = np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)
        overlap = overlap.clip(0).prod(axis=1)
        rates.append((overlap / (areas + side**2 - overlap) >= 0.5).mean())
    assert 0.1 < max(rates) < 0.4


def test_object_is_not_told_by_brightness_alone(samples):
    darker = [s.image[s.mask == 1].mean() < s.image[s.mask == 0].mean() for s in samples]
    assert 0.25 < np.mean(darker) < 0.75


def test_voc_layout_is_complete_and_exact(tmp_path):
    synthetic.write_voc(tmp_path / "set", num_train=6, num_val=3, seed=1, size_px=48)
    written = files(tmp_path / "set")
    assert written["ImageSets/Main/train.txt"].split() == [f"{i:06d}".encode() for i in range(6)]
    assert written["ImageSets/Main/val.txt"].split() == [b"000006", b"000007", b"000008"]
    assert len(written) == 2 + 3 * 9
    for index in range(9):
        sample = synthetic.draw_sample(1, index, size_px=48)
        decoded = images.decode(written[f"JPEGImages/{index:06d}.jpg"]).astype(float)
        assert np.abs(decoded - sample.image).mean() < 12
        mask = images.decode_mask(written[f"SegmentationClass/{index:06d}.png"])
        np.testing.assert_array_equal(mask, sample.mask)
        annotation = parse_xml(written[f"Annotations/{index:06d}.xml"], first_pixel=1)
        assert [tuple(map(int, e)) for e in annotation.edges] == [synthetic.box_of(sample.mask)]
        assert list(annotation.labels) == [synthetic.CLASSES[sample.label]]


def test_same_arguments_write_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        synthetic.write_voc(tmp_path / name, num_train=8, num_val=2, seed=5, size_px=48)
    synthetic.write_voc(tmp_path / "c", num_train=8, num_val=2, seed=6, size_px=48)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a").keys() == files(tmp_path / "c").keys()
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_an_existing_set_is_not_mixed_with_another(tmp_path):
    synthetic.write_voc(tmp_path, num_train=1, num_val=1, size_px=48)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="JPEGImages"):
        synthetic.write_voc(tmp_path, num_train=2, num_val=1, size_px=48)
    assert files(tmp_path) == before


def test_threads_of_opencv_do_not_change_the_image():
    before = cv2.getNumThreads()
    try:
        drawn = []
        for num_threads in (1, 4):
            cv2.setNumThreads(num_threads)
            drawn.append(synthetic.draw_sample(0, 1).image)
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*drawn)
