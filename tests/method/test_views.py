import math
from fractions import Fraction

import numpy as np
import pytest

from c2am_dist.method import images
from c2am_dist.method.views import (
    View,
    centre_view,
    check_boxes,
    draw_view,
    image_boxes,
    pixel_boxes,
    relative_boxes,
)


def random_case(seed: int) -> tuple[np.ndarray, tuple[int, int], View]:
    """Boxes of an image and a view of it; some reach out of the view, some miss it."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 2000, 2))
    resize_px = int(rng.integers(1, 600))
    crop_px = int(rng.integers(1, resize_px + 1))
    view = draw_view(rng, resize_px=resize_px, crop_px=crop_px, flip=True)
    low = rng.integers(0, [width, height], (8, 2))
    high = rng.integers(low + 1, [width + 1, height + 1])
    return np.concatenate([low, high], axis=1), (height, width), view


def exact_boxes(boxes: np.ndarray, image_size: tuple[int, int], view: View) -> list:
    """The chain resize, crop, flip, clip in rational numbers, edge by edge."""
    height, width = image_size
    found = []
    for x0, y0, x1, y1 in boxes.tolist():
        left = Fraction(x0) * view.resize_px / width - view.x0
        right = Fraction(x1) * view.resize_px / width - view.x0
        top = Fraction(y0) * view.resize_px / height - view.y0
        bottom = Fraction(y1) * view.resize_px / height - view.y0
        if view.is_mirrored:
            left, right = view.crop_px - right, view.crop_px - left
        left, right, top, bottom = (
            min(max(edge, Fraction(0)), Fraction(view.crop_px))
            for edge in (left, right, top, bottom)
        )
        if right == left or bottom == top:
            found.append(None)
        else:
            sides = (left, top, right - left, bottom - top)
            found.append([float(side / view.crop_px) for side in sides])
    return found


def test_relative_boxes_are_those_of_exact_arithmetic():
    for seed in range(200):
        boxes, image_size, view = random_case(seed)
        relative, is_visible = relative_boxes(boxes, image_size, view)
        expected = exact_boxes(boxes, image_size, view)
        assert is_visible.tolist() == [box is not None for box in expected]
        for found, box in zip(relative, expected, strict=True):
            np.testing.assert_allclose(found, box or [0, 0, 0, 0], atol=1e-9, rtol=0)
        assert ((relative >= 0) & (relative <= 1)).all()


def test_boxes_within_the_view_come_back_exactly():
    for seed in range(200):
        boxes, image_size, view = random_case(seed)
        view = view._replace(crop_px=view.resize_px, x0=0, y0=0)
        relative, is_visible = relative_boxes(boxes, image_size, view)
        assert is_visible.all()
        back = image_boxes(relative, image_size, view)
        np.testing.assert_allclose(back, boxes, atol=1e-9, rtol=0)
        np.testing.assert_array_equal(pixel_boxes(back, image_size), boxes)


def test_boxes_cut_by_the_view_come_back_cut():
    for seed in range(200):
        boxes, image_size, view = random_case(seed)
        relative, is_visible = relative_boxes(boxes, image_size, view)
        back = image_boxes(relative, image_size, view)[is_visible]
        everything, _ = relative_boxes(np.array([[0, 0, *image_size[::-1]]]), image_size, view)
        assert everything.tolist() == [[0, 0, 1, 1]]
        frame = image_boxes(everything, image_size, view)
        cut = np.concatenate(
            [np.maximum(boxes[:, :2], frame[:, :2]), np.minimum(boxes[:, 2:], frame[:, 2:])], axis=1
        )
        np.testing.assert_allclose(back, cut[is_visible], atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(20))
def test_box_stays_on_its_object_through_augmentation(seed):
    """The pixels that images.augment cuts show the object where the box says."""
    height, width = 48, 96
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [20, 10], 2) * 4  # on whole pixels of the square
    high = low + 4 * rng.integers(1, 4, 2)
    box = np.minimum(np.concatenate([low, high]), [width, height, width, height])[None]
    image = np.zeros((height, width, 3), np.uint8)
    image[box[0, 1] : box[0, 3], box[0, 0] : box[0, 2]] = 255
    options = {"resize_px": 48, "crop_px": 40, "flip": True}
    pixels = images.augment(image, rng=images.augmentation_rng(seed, 0, "a"), **options)
    view = draw_view(images.augmentation_rng(seed, 0, "a"), **options)
    np.testing.assert_array_equal(images.cut_view(image, view), pixels)
    relative, is_visible = relative_boxes(box, (height, width), view)
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    assert is_visible.item() == (len(rows) > 0)
    if len(rows):
        x, y = columns.min(), rows.min()
        expected = np.array([x, y, columns.max() + 1 - x, rows.max() + 1 - y]) / 40
        np.testing.assert_allclose(relative[0], expected, atol=1e-9, rtol=0)


def test_augment_draws_as_it_always_did():
    """First row and column, then the coin, which is not tossed without flip."""
    for flip in (True, False):
        rng, plain = np.random.default_rng(5), np.random.default_rng(5)
        for _ in range(20):
            view = draw_view(rng, resize_px=9, crop_px=5, flip=flip)
            y0, x0 = plain.integers(0, 5, size=2)
            assert view == View(9, 5, x0, y0, flip and plain.random() < 0.5)
        assert rng.random() == plain.random()


def test_views_of_one_kind():
    assert centre_view(resize_px=256, crop_px=224) == View(256, 224, 16, 16, False)
    assert centre_view(resize_px=7, crop_px=4) == View(7, 4, 1, 1, False)
    assert centre_view(resize_px=8, crop_px=8) == View(8, 8, 0, 0, False)
    for make in (centre_view, lambda **o: draw_view(np.random.default_rng(0), flip=False, **o)):
        with pytest.raises(ValueError, match=r"crop_px must be <= resize_px \(8\), got 9"):
            make(resize_px=8, crop_px=9)


def test_box_that_ends_where_the_view_begins_is_not_visible():
    view = View(100, 50, 30, 0, False)
    boxes = np.array([[0, 0, 30, 100], [0, 0, 31, 100], [80, 0, 100, 100], [0, 50, 100, 60]])
    relative, is_visible = relative_boxes(boxes, (100, 100), view)
    assert is_visible.tolist() == [False, True, False, False]
    assert relative.tolist() == [[0] * 4, [0, 0, 0.02, 1], [0] * 4, [0] * 4]


def test_box_out_of_the_image_is_cut_at_its_border():
    view = centre_view(resize_px=50, crop_px=50)
    relative, is_visible = relative_boxes(
        np.array([[-10, -10, 50, 200], [120, 0, 130, 10]]), (100, 100), view
    )
    assert relative[0].tolist() == [0, 0, 0.5, 1]
    assert is_visible.tolist() == [True, False]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([3, 2, 3, 9], "box 3 2 3 9 has no area"),
        ([3, 9, 5, 2], "box 3 9 5 2 has no area"),
        ([0, 0, 0, 0], "box 0 0 0 0 has no area"),
        ([0, math.nan, 3, 3], "box 0 nan 3 3 is not finite"),
        ([0, 0, math.inf, 3], "box 0 0 inf 3 is not finite"),
    ],
)
def test_boxes_without_area_are_refused(box, message):
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], box])
    with pytest.raises(ValueError, match=message):
        check_boxes(boxes)
    with pytest.raises(ValueError, match=message):
        relative_boxes(boxes, (10, 10), centre_view(resize_px=8, crop_px=8))


def test_no_boxes_are_carried_as_none():
    view = centre_view(resize_px=8, crop_px=8)
    relative, is_visible = relative_boxes(np.zeros((0, 4)), (10, 10), view)
    assert relative.shape == (0, 4) and is_visible.shape == (0,)
    assert image_boxes(relative, (10, 10), view).shape == (0, 4)


def test_regressed_box_is_cut_at_the_image_not_at_the_view():
    view = View(100, 50, 25, 25, False)
    relative = np.array([[0.5, 0.5, 0.8, 0.4], [0.9, 0.0, 0.9, 0.9]], np.float32)
    found = image_boxes(relative, (100, 200), view)
    np.testing.assert_allclose(found, [[100, 50, 180, 70], [140, 25, 200, 70]], atol=1e-4)
    with pytest.raises(ValueError, match="boxes must be finite"):
        image_boxes(np.array([[0, 0, math.nan, 1]]), (10, 10), view)


def test_stored_box_is_rounded_and_keeps_a_pixel():
    boxes = np.array([[0.4, 0.5, 3.6, 2.4], [9.8, 4.9, 10.0, 5.0], [2.1, 1.2, 2.2, 1.3]])
    expected = [[0, 1, 4, 2], [9, 4, 10, 5], [2, 1, 3, 2]]
    assert pixel_boxes(boxes, (5, 10)).tolist() == expected
