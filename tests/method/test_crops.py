import numpy as np
import pytest

from c2am_dist.method import crops
from c2am_dist.method.images import augmentation_rng


@pytest.mark.parametrize("size", [(60, 80), (100, 40), (1, 1), (3, 500), (500, 3)])
def test_crops_lie_in_the_image_and_keep_to_area_and_aspect(size: tuple[int, int]):
    height, width = size
    for seed in range(200):
        x0, y0, x1, y1 = crops.draw_crop(np.random.default_rng(seed), size)
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        if min(size) >= 40:
            share = (x1 - x0) * (y1 - y0) / (height * width)
            assert 0.07 < share <= 1
            assert 0.7 < (x1 - x0) / (y1 - y0) < 1.43


def test_areas_are_drawn_uniformly():
    rng = np.random.default_rng(0)
    drawn = [crops.draw_crop(rng, (1000, 1000)) for _ in range(4000)]
    shares = np.array([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in drawn]) / 1e6
    # Parts of over three quarters fit at some aspects only, and are drawn anew.
    below = shares[shares < 0.75]
    counts, _ = np.histogram(below, bins=8, range=(0.08, 0.75))
    assert counts.std() < 0.1 * counts.mean()


def test_a_sample_follows_its_image_and_epoch_alone():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    def sample(epoch: int, image_id: str = "a") -> bytes:
        rng = augmentation_rng(0, epoch, image_id)
        found = crops.augment(image, crop_px=32, flip=True, rng=rng)
        assert found.shape == (32, 32, 3) and found.dtype == np.uint8
        return found.tobytes()

    assert sample(0) == sample(0)
    assert len({sample(0), sample(1), sample(0, "b")}) == 3


def test_crops_are_mirrored_half_the_time():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    falls = []
    for seed in range(200):
        found = crops.augment(ramp, crop_px=32, flip=True, rng=np.random.default_rng(seed))
        falls.append(found[0, 0, 0] > found[0, -1, 0])
        plain = crops.augment(ramp, crop_px=32, flip=False, rng=np.random.default_rng(seed))
        assert plain[0, 0, 0] < plain[0, -1, 0]
    assert 70 < sum(falls) < 130


def test_no_crop_is_blurred_by_decoding_too_small():
    assert crops.min_side_px(224) == 792
