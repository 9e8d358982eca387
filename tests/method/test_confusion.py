from pathlib import Path

import numpy as np
import pytest

from c2am_dist.method import confusion
from c2am_dist.method.confusion import ConfusionMatrix, foreground


def matrix(prediction: list, truth: list, num_classes: int = 3) -> ConfusionMatrix:
    found = ConfusionMatrix.empty(num_classes)
    found.add(np.array([prediction], np.uint8), np.array([truth], np.uint8))
    return found


def random_masks(num_classes: int, size: tuple[int, int] = (30, 40)) -> tuple:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, num_classes, size).astype(np.uint8)
    truth[rng.random(size) < 0.1] = 255
    return rng.integers(0, num_classes, size).astype(np.uint8), truth


def bincount(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """The straightforward matrix."""
    valid = truth != 255
    pairs = truth[valid].astype(np.int64) * num_classes + prediction[valid]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def test_golden_iou_is_reproduced(golden: Path):
    data = np.load(golden / "wsss.npz")
    for mask, iou in (("refined", "iou_refined"), ("thresholded_03", "iou_thresholded")):
        found = ConfusionMatrix.empty(9)
        found.add(data[mask], data["ground_truth"])
        np.testing.assert_array_equal(found.iou(), data[iou], strict=True)


@pytest.mark.parametrize("num_classes", [2, 21, 81, 255])
def test_counts_are_those_of_bincount(num_classes: int):
    prediction, truth = random_masks(num_classes)
    found = ConfusionMatrix.empty(num_classes)
    found.add(prediction, truth)
    np.testing.assert_array_equal(found.counts, bincount(prediction, truth, num_classes))
    assert found.counts.dtype == np.int64


def test_types_orders_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    prediction, truth = random_masks(21)
    expected = bincount(prediction, truth, 21)
    monkeypatch.setattr(confusion, "_MAX_EXACT", 7)
    found = ConfusionMatrix.empty(21)
    found.add(prediction.astype(np.int64), np.asfortranarray(truth))
    found.add(prediction[::-1], truth.astype(np.int16)[::-1])
    np.testing.assert_array_equal(found.counts, 2 * expected)


def test_rates_by_hand():
    # Class 1: one hit, two falsely activated, one missed; class 2 is missed altogether.
    found = matrix([1, 1, 1, 0, 0, 0], [1, 0, 2, 1, 0, 0])
    assert found.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]
    np.testing.assert_allclose(found.iou(), [2 / 4, 1 / 4, 0])
    np.testing.assert_allclose(found.false_activation(), [1 / 4, 2 / 4, 0])
    np.testing.assert_allclose(found.missed_activation(), [1 / 4, 1 / 4, 1])
    assert found.mean_iou() == pytest.approx(1 / 4)
    assert found.pixel_accuracy() == 3 / 6


def test_the_three_shares_of_the_union_add_up_to_one():
    found = ConfusionMatrix.empty(21)
    found.add(*random_masks(21))
    total = found.iou() + found.false_activation() + found.missed_activation()
    np.testing.assert_allclose(total, 1)


def test_class_that_never_occurs_has_rates_of_0_and_can_be_left_out_of_the_mean():
    found = matrix([0, 1, 1, 1], [0, 1, 1, 0], num_classes=4)
    assert found.is_present().tolist() == [True, True, False, False]
    assert found.iou()[2:].tolist() == [0, 0]
    assert found.false_activation()[2] == found.missed_activation()[2] == 0
    assert found.mean_iou() == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert found.mean_iou(is_present_only=True) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_ignored_pixels_change_nothing_whatever_is_predicted_there():
    plain, ignoring = matrix([0, 1], [0, 1]), matrix([0, 1, 2, 255, 99], [0, 1, 255, 255, 255])
    np.testing.assert_array_equal(plain.counts, ignoring.counts)
    assert matrix([255, 0], [255, 0]).pixel_accuracy() == 1


def test_merged_parts_equal_the_whole():
    prediction, truth = random_masks(21)
    whole, upper, lower = (ConfusionMatrix.empty(21) for _ in range(3))
    whole.add(prediction, truth)
    upper.add(prediction[:11], truth[:11])
    lower.add(prediction[11:], truth[11:])
    np.testing.assert_array_equal(upper.merge(lower).counts, whole.counts)
    with pytest.raises(ValueError, match="21 classes cannot be merged with 2"):
        whole.merge(ConfusionMatrix.empty(2))


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([0, 3], [0, 1], "prediction holds 3, which is none of 3"),
        ([0, 255], [0, 1], "prediction holds 255"),
        ([0, 1], [0, 77], "truth holds 77"),
        ([0, 1], [0, 254], "truth holds 254"),
        ([0], [0, 1], r"\(1, 1\) and truth \(1, 2\) differ"),
        ([], [], "at least one pixel"),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction: list, truth: list, message: str):
    with pytest.raises(ValueError, match=message):
        matrix(prediction, truth)


@pytest.mark.parametrize("stray", [-1, 256, 70000])
def test_id_that_would_wrap_around_is_refused(stray: int):
    found = ConfusionMatrix.empty(3)
    with pytest.raises(ValueError, match=f"truth holds {stray}, which is no class id"):
        found.add(np.zeros((1, 2), np.int64), np.array([[0, stray]]))
    assert not found.counts.any()


def test_refused_image_leaves_the_counts_as_they_were():
    found = matrix([0, 1], [0, 1])
    with pytest.raises(ValueError, match="holds 9"):
        found.add(np.array([[0, 9]], np.uint8), np.array([[0, 1]], np.uint8))
    assert found.counts.sum() == 2


@pytest.mark.parametrize("num_classes", [1, 256])
def test_impossible_numbers_of_classes_are_refused(num_classes: int):
    with pytest.raises(ValueError, match="num_classes must be 2 to 255"):
        ConfusionMatrix.empty(num_classes)


def test_figures_of_no_pixels_are_refused():
    with pytest.raises(ValueError, match="mIoU of no pixels"):
        ConfusionMatrix.empty(2).mean_iou()
    with pytest.raises(ValueError, match="accuracy of no pixels"):
        matrix([0], [255]).pixel_accuracy()


def test_foreground_iou_of_a_binary_mask():
    found = ConfusionMatrix.empty(2)
    prediction = np.array([[True, True, False, True]])
    found.add(prediction, foreground(np.array([[51, 204, 7, 0]], np.uint8)))
    assert found.iou()[1] == pytest.approx(2 / 4)


def test_cubs_grey_masks_ignore_nothing():
    mask = np.array([[0, 1, 254, 255]], np.uint8)
    assert foreground(mask).tolist() == [[0, 1, 1, 255]]
    assert foreground(mask, ignored=None).tolist() == [[0, 1, 1, 1]]
