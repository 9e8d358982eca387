import numpy as np
import pytest
import torch

from c2am_dist.method import cues
from c2am_dist.method.activation import merge_scales
from c2am_dist.method.edge_aware import guided_filter


def maps_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(size, np.float32) for size in sizes]


@pytest.mark.parametrize("size", [(48, 80), (5, 7), (1, 1)])
def test_views_merge_at_the_images_size_as_a_batch_does_on_its_device(size: tuple[int, int]):
    views = maps_of([(4, 4), (8, 8), (12, 12), (16, 16)])
    tensors = [torch.from_numpy(view)[None, None] for view in views]
    expected = merge_scales(tensors, size)[0, 0].numpy()
    np.testing.assert_allclose(cues.merge_views(views, size), expected, atol=1e-6)


def test_a_sum_of_two_views_merges_as_both():
    first, second, other = maps_of([(6, 6), (6, 6), (9, 9)])
    both = cues.merge_views([first, second, other], (30, 20))
    np.testing.assert_allclose(cues.merge_views([first + second, other], (30, 20)), both, atol=1e-6)


def test_views_without_activation_stay_zero_and_no_view_is_refused():
    assert not cues.merge_views([np.zeros((3, 3), np.float32)], (4, 5)).any()
    with pytest.raises(ValueError, match="at least one map"):
        cues.merge_views([], (4, 5))


def test_a_cue_refined_by_a_crf_is_the_golden_one(golden):
    pytest.importorskip("pydensecrf", reason="dense CRF is optional: pip install pydensecrf2")
    data = np.load(golden / "wsss.npz")
    foreground = np.where(data["crf_labels"] == 1, 0.31, 0.29).astype(np.float32)
    refined = cues.refine_by_crf(data["crf_image"], 1 - foreground)
    np.testing.assert_array_equal(refined, data["crf_out"] == 0)


def test_a_cue_refined_by_the_filter_is_one_minus_the_filtered_foreground():
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    (cue,) = maps_of([(20, 30)])
    (expected,) = guided_filter(image, (1 - cue)[None])
    refined = cues.refine_by_filter(image, cue)
    np.testing.assert_allclose(refined, 1 - expected / expected.max(), atol=1e-6)
    assert refined.min() == 0
    assert (cues.refine_by_filter(image, np.ones_like(cue)) == 1).all()


def test_otsus_threshold_splits_a_foreground_whose_background_is_not_near_zero(golden):
    pytest.importorskip("pydensecrf", reason="dense CRF is optional: pip install pydensecrf2")
    data = np.load(golden / "wsss.npz")
    foreground = np.where(data["crf_labels"] == 1, 0.9, 0.6).astype(np.float32)
    # At 0.3 all of it would be foreground.
    refined = cues.refine_by_crf(data["crf_image"], 1 - foreground, threshold=None)
    np.testing.assert_array_equal(refined, data["crf_out"] == 0)
    assert not cues.refine_by_crf(data["crf_image"], 1 - foreground).any()
