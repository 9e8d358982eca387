from pathlib import Path

import cv2
import numpy as np
import pytest

from c2am_dist.method import boxes
from c2am_dist.method.contours import contour_boxes, largest_boxes
from tests.method import reference
from tests.method.maps import noise_map, smooth_map, stretch

THRESHOLDS = reference.THRESHOLDS


def assert_as_reference(activation: np.ndarray, thresholds: np.ndarray) -> None:
    largest = reference.boxes(activation, thresholds, is_any=False)
    every = reference.boxes(activation, thresholds, is_any=True)
    found = contour_boxes(activation, thresholds)
    np.testing.assert_array_equal(largest_boxes(activation, thresholds), np.concatenate(largest))
    np.testing.assert_array_equal(found.boxes, np.concatenate(every))
    np.testing.assert_array_equal(found.counts, [len(one) for one in every])
    np.testing.assert_array_equal(found.boxes[found.largest], np.concatenate(largest))


def test_golden_boxes_are_reproduced(golden: Path):
    data = np.load(golden / "boxes.npz")
    for case in range(int(data["cases"])):
        activation, thresholds = data[f"{case:02d}_map"], data["thresholds"]
        found = contour_boxes(activation, thresholds)
        largest = largest_boxes(activation, thresholds)
        np.testing.assert_array_equal(largest, data[f"{case:02d}_largest"])
        np.testing.assert_array_equal(found.boxes, data[f"{case:02d}_all"])
        np.testing.assert_array_equal(found.counts, data[f"{case:02d}_all_counts"])
        np.testing.assert_array_equal(found.boxes[found.largest], largest)


@pytest.mark.parametrize("size", [1, 2, 3, 14, 28, 61, 224])
def test_smooth_maps_give_what_a_pass_per_threshold_gives(size: int):
    rng = np.random.default_rng(size)
    for noise in (0.0, 0.02, 0.3):
        for _ in range(4):
            activation = smooth_map(rng, max(size, 2), noise=noise)[:size, :size]
            assert_as_reference(activation, THRESHOLDS)


def test_noise_and_plateaus_give_what_a_pass_per_threshold_gives():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = rng.integers(1, 30, 2)
        values = rng.random((height, width), np.float32)
        assert_as_reference(values, THRESHOLDS)
        assert_as_reference(np.floor(values * 4) / 4, THRESHOLDS)  # few levels, many plateaus
        blurred = cv2.GaussianBlur(values, (0, 0), 2)
        assert_as_reference(blurred, THRESHOLDS)


def test_rings_with_equal_contour_areas_give_what_a_pass_per_threshold_gives():
    diamond = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0]], np.float32)
    nested = np.zeros((9, 9), np.float32)
    nested[1:8, 1:8], nested[2:7, 2:7], nested[4, 4] = 0.6, 0.0, 1.0
    for activation in (diamond, nested, 1 - diamond, 1 - nested):
        assert_as_reference(activation, THRESHOLDS)


def test_thresholds_may_come_unordered_and_repeated():
    activation = smooth_map(np.random.default_rng(1), 28)
    thresholds = np.array([0.9, 0.1, 0.5, 0.1, 0.101, 1.0, 0.0])
    assert_as_reference(activation, thresholds)
    assert largest_boxes(activation, np.array([])).shape == (0, 4)


def test_threshold_of_one_leaves_no_contour():
    activation = smooth_map(np.random.default_rng(1), 28)
    assert largest_boxes(activation, np.array([1.0])).tolist() == [[0, 0, 0, 0]]


def test_zero_map_gives_the_empty_box_at_every_threshold():
    found = contour_boxes(np.zeros((5, 7), np.float32), THRESHOLDS)
    assert found.counts.tolist() == [1] * len(THRESHOLDS)
    assert not found.boxes.any()


def test_largest_contour_is_chosen_and_all_are_returned():
    activation = np.zeros((10, 12), np.float32)
    activation[1:3, 1:3] = 1.0  # 2 x 2 pixels
    activation[4:9, 5:12] = 0.5  # 5 x 7 pixels, touching the right border
    found = contour_boxes(activation, np.array([0.2, 0.8]))
    assert found.counts.tolist() == [2, 1]
    assert found.boxes[found.largest].tolist() == [[5, 4, 11, 9], [1, 1, 3, 3]]


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_map_outside_its_range_is_refused(bad: float):
    activation = np.full((4, 4), 0.5, np.float32)
    activation[2, 1] = bad
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        largest_boxes(activation, THRESHOLDS)


def test_iou_counts_half_open_pixels():
    a = np.array([[0, 0, 4, 4], [4, 4, 4, 4]], np.int32)
    b = np.array([[2, 0, 6, 4], [4, 0, 8, 4], [0, 0, 4, 4]], np.int32)
    np.testing.assert_allclose(boxes.iou(a, b), [[8 / 24, 0, 1], [0, 0, 0]])


def test_inclusive_iou_counts_the_last_row_and_column():
    a = np.array([[0, 0, 3, 3]], np.int32)
    b = np.array([[2, 0, 5, 3], [3, 3, 4, 4], [4, 0, 5, 3]], np.int32)
    np.testing.assert_allclose(boxes.iou_inclusive(a, b), [[8 / 24, 1 / 19, 0]])


def square_map() -> np.ndarray:
    activation = np.zeros((14, 14), np.float32)
    activation[4:10, 2:8] = 1.0
    return activation


def test_pseudo_box_surrounds_the_object_in_image_pixels():
    found, scores = boxes.pseudo_boxes(square_map(), threshold=0.5, image_size=(140, 280))
    # Half a cell is blurred by the resize; a cell is 20 px wide and 10 px high here.
    np.testing.assert_allclose(found, [[40, 40, 160, 100]], atol=3)
    assert found.dtype == np.int32
    assert 0.8 < scores[0] <= 1.0


def test_first_pseudo_box_is_the_protocols_largest():
    rng = np.random.default_rng(3)
    for _ in range(20):
        activation = smooth_map(rng, 14, noise=0.4)
        stretched = boxes.to_protocol(activation)
        protocol = largest_boxes(stretched, np.array([0.4]))
        found, _ = boxes.pseudo_boxes(activation, threshold=0.4, image_size=(224, 224))
        np.testing.assert_array_equal(np.minimum(found, [224, 224, 223, 223]), protocol)


def test_pseudo_boxes_come_largest_first_and_no_more_than_asked():
    activation = square_map()
    activation[0:3, 10:13] = 0.8
    found, scores = boxes.pseudo_boxes(
        activation, threshold=0.3, image_size=(224, 224), max_boxes=5
    )
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
    assert len(found) == 2 and areas[0] > areas[1] and scores[0] > scores[1]
    one, _ = boxes.pseudo_boxes(activation, threshold=0.3, image_size=(224, 224))
    np.testing.assert_array_equal(one, found[:1])


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 5)])
def test_constant_map_yields_no_box(value: float, size: tuple[int, int]):
    activation = np.full(size, value, np.float32)
    found, scores = boxes.pseudo_boxes(activation, threshold=0.0, image_size=(50, 60))
    assert found.shape == (0, 4) and scores.shape == (0,)
    assert boxes.otsu_threshold(activation) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_map_that_is_not_finite_is_refused(bad: float):
    activation = square_map()
    activation[0, 0] = bad
    with pytest.raises(ValueError, match="finite"):
        boxes.pseudo_boxes(activation, threshold=0.5, image_size=(10, 10))
    with pytest.raises(ValueError, match="finite"):
        boxes.otsu_threshold(activation)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_threshold_outside_its_range_is_refused(threshold: float):
    with pytest.raises(ValueError, match="threshold"):
        boxes.pseudo_boxes(square_map(), threshold=threshold, image_size=(10, 10))


def test_box_in_an_image_is_never_empty_and_never_outside():
    tiny = np.array([[223, 223, 224, 224], [0, 0, 1, 1], [0, 0, 224, 224]], np.int32)
    found = boxes.to_image(tiny, (224, 224), (1, 3))
    assert found.tolist() == [[2, 0, 3, 1], [0, 0, 1, 1], [0, 0, 3, 1]]


def test_box_to_a_larger_image_and_back_is_the_same():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 200, (50, 2))
    half_open = np.concatenate([low, low + rng.integers(1, 24, (50, 2))], axis=1).astype(np.int32)
    carried = boxes.to_image(half_open, (224, 224), (700, 450))
    np.testing.assert_array_equal(boxes.to_image(carried, (700, 450), (224, 224)), half_open)


def test_annotations_are_scaled_and_truncated_for_the_protocol():
    found = boxes.gt_to_protocol(np.array([[1, 2, 64, 63]], np.int32), (64, 64))
    assert found.tolist() == [[3, 7, 224, 220]]


def test_otsu_splits_two_levels_between_them():
    activation = square_map() * 0.8 + 0.1
    threshold = boxes.otsu_threshold(activation)
    stretched = boxes.to_protocol(activation)
    assert 0 < threshold < 1
    assert abs((stretched > threshold).mean() - 36 / 196) < 0.01


def test_otsu_split_is_what_the_boxes_see():
    activation = smooth_map(np.random.default_rng(2), 14)
    grey = (boxes.to_protocol(activation) * 255).astype(np.uint8)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    assert int(boxes.otsu_threshold(activation) * grey.max()) == level


def test_protocol_map_spans_zero_to_one():
    stretched = boxes.to_protocol(stretch(noise_map(np.random.default_rng(0), 9)) * 0.3 + 0.2)
    assert stretched.shape == (224, 224) and stretched.min() == 0 and stretched.max() == 1
