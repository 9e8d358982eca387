"""COCO's regions as masks, against pycocotools; what must not be drawn at all."""

import json
import sys
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from c2am_dist.data.formats import regions
from tests.data.formats.layouts import JPEG, listing
from tests.files import lay_out

SIZE = (30, 40)


def annotation(segmentation: object, category_id: int = 1, **fields: object) -> dict[str, Any]:
    base = {"id": 7, "category_id": category_id, "bbox": [0, 0, 9, 9], "segmentation": segmentation}
    return {**base, **fields}


def square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle(mask: np.ndarray, *, is_compressed: bool) -> dict[str, Any]:
    flat = mask.T.ravel()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    counts = np.diff([0, *ends]).tolist()
    uncompressed = {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
    if not is_compressed:
        return uncompressed
    packed = coco_mask.frPyObjects(uncompressed, *mask.shape)
    return {"size": list(mask.shape), "counts": packed["counts"].decode()}


def draw(*annotations: dict[str, Any], frame: tuple[float, float] | None = None) -> np.ndarray:
    return regions.draw(regions.pack(annotations, frame), SIZE)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with numpy 2
def test_polygons_are_drawn_as_coco_draws_them():
    two = [*square(2.5, 3, 9, 20), [20.1, 5.2, 35.7, 8, 28, 25.5]]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(two, *SIZE)))
    np.testing.assert_array_equal(draw(annotation(two, 18)), expected * 18)
    over_the_edge = square(-10, -10, 60, 5)
    assert draw(annotation(over_the_edge))[:5].all()


def test_polygons_scale_from_the_size_that_is_stated():
    half = draw(annotation(square(1, 1, 5, 10)), frame=(20.0, 15.0))
    np.testing.assert_array_equal(half, draw(annotation(square(2, 2, 10, 20))))


@pytest.mark.parametrize("is_compressed", [True, False])
def test_rle_is_read_either_way(is_compressed: bool):
    rng = np.random.default_rng(0)
    shapes = [np.zeros(SIZE, int), np.ones(SIZE, int)]
    shapes += [(rng.random(SIZE) < share).astype(int) for share in (0.02, 0.5, 0.9)]
    large = np.zeros((400, 300), int)
    large[40:, 10:280] = 1  # counts of several characters, and differences below zero
    for mask in [*shapes, large]:
        packed = regions.pack([annotation(rle(mask, is_compressed=is_compressed), 90)], None)
        drawn = regions.draw(packed, (mask.shape[0], mask.shape[1]))
        np.testing.assert_array_equal(drawn, mask * 90)


def test_crowds_lie_below_and_small_objects_on_top():
    small = annotation(square(5, 5, 10, 10), 1, area=25)
    large = annotation(square(0, 0, 20, 20), 2, area=400)
    crowd = annotation(rle(np.ones(SIZE, int), is_compressed=False), 3, area=9, iscrowd=1)
    for order in ([small, large, crowd], [crowd, large, small], [large, small, crowd]):
        mask = draw(*order)
        assert (mask[7, 7], mask[15, 15], mask[25, 30]) == (1, 2, 3)
    unstated = [
        annotation(square(5, 5, 10, 10), 1, bbox=[5, 5, 5, 5]),
        annotation(square(0, 0, 20, 20), 2, bbox=[0, 0, 20, 20]),
    ]
    assert draw(*unstated)[7, 7] == 1


def test_an_image_without_objects_is_all_background():
    assert draw().shape == SIZE and not draw().any()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "neither polygons nor RLE: None"),
        ([], "neither polygons nor RLE"),
        ([1, 2, 3, 4, 5, 6], "neither polygons nor RLE"),
        ([[1, 2, 3, 4]], "not 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not 7 numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "could not convert"),
        ([[1, 2, 3, 4, 5, float("nan")]], "leads far out"),
        ([[1, 2, 3, 1e9, 5, 6]], "leads far out of the image of 40x30"),
        ([[0, 0, 40, 30, 0, 30, 40, 0] * 100], "polygon of 400 points is"),
        ({"size": [40, 30], "counts": [1200]}, r"RLE of size \[40, 30\], but the image is \[30"),
        ({"counts": [1200]}, "RLE of size None"),
        ({"size": [30, 40]}, "RLE without counts"),
        ({"size": [30, 40], "counts": [600]}, "RLE counts 600 pixels, but the image has 1200"),
        ({"size": [30, 40], "counts": [1300, -100]}, "RLE counts"),
        ({"size": [30, 40], "counts": [2**62, 1]}, "RLE counts"),
        ({"size": [30, 40], "counts": "6"}, "RLE counts 6 pixels"),
        ({"size": [30, 40], "counts": "o" * 9}, "RLE is no compressed counts"),
        ({"size": [30, 40], "counts": "o"}, "RLE ends within a count"),
        ({"size": [30, 40], "counts": "\x00"}, "RLE is no compressed counts"),
    ],
)
def test_a_broken_region_is_an_error_that_names_its_annotation(segmentation: Any, reason: str):
    with pytest.raises(ValueError, match=f"annotation 7: .*{reason}"):
        draw(annotation(segmentation))


@pytest.mark.parametrize("category_id", [0, 255, "dog", None])
def test_a_category_that_no_mask_can_hold_is_named(category_id: Any):
    with pytest.raises(ValueError, match=f"annotation 7: category id {category_id!r} is none of"):
        draw(annotation(square(1, 1, 5, 5), category_id))


def test_without_pycocotools_nothing_begins(tmp_path, monkeypatch: pytest.MonkeyPatch):
    root = lay_out(tmp_path, {"a.jpg": JPEG, "instances_x.json": "no JSON"})
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"draw_masks needs .* pip install 'c2am-dist\[coco\]'"):
        listing(root, "coco", draw_masks=True)  # type: ignore


def test_regions_are_small_and_hold_what_is_drawn():
    packed = regions.pack([annotation(square(1, 1, 5, 5), bbox=[0, 0, 1, 1], area=3)], None)
    assert json.loads(packed.text) == [[7, 1, square(1, 1, 5, 5)]]
    assert packed.size_bytes < 60
