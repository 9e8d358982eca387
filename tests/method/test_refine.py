from pathlib import Path

import numpy as np
import pytest

from c2am_dist.method.refine import refine, threshold_background

KEYS = np.array([0, 3, 8])


def maps(*values: float) -> np.ndarray:
    return np.full((len(values), 1, 1), 0, np.float32) + np.array(values, np.float32)[:, None, None]


def one(value: float) -> np.ndarray:
    return np.full((1, 1), value, np.float32)


def test_golden_masks_are_reproduced(golden: Path):
    data = np.load(golden / "wsss.npz")
    refined = refine(data["cams"], data["background_cue"], data["keys"])
    np.testing.assert_array_equal(refined, data["refined"], strict=True)
    thresholded = threshold_background(data["cams"], 0.3, data["keys"])
    np.testing.assert_array_equal(thresholded, data["thresholded_03"], strict=True)


@pytest.mark.parametrize(
    ("cams", "cue", "expected"),
    [
        ((0.2, 0.6), 0.5, 8),
        ((0.7, 0.6), 0.5, 3),
        ((0.2, 0.4), 0.5, 0),
        ((0.5, 0.5), 0.5, 0),  # the background wins a tie with a class ...
        ((0.6, 0.6), 0.5, 3),  # ... and the first class one with another
        ((0.0, 0.0), 0.0, 0),
        ((1.0, 1.0), 1.0, 0),
    ],
)
def test_the_largest_channel_names_the_pixel(cams: tuple[float, ...], cue: float, expected: int):
    assert refine(maps(*cams), one(cue), KEYS).item() == expected
    assert threshold_background(maps(*cams), cue, KEYS).item() == expected


def test_cue_in_double_precision_is_not_rounded_to_that_of_the_maps():
    third = np.float64(1) / 3
    cams = np.full((1, 1, 1), third, np.float32)
    above = cams[0].astype(np.float64) + 1e-12
    assert refine(cams, above, KEYS[:2]).item() == 0
    assert refine(cams, above - 2e-12, KEYS[:2]).item() == 3


def test_mask_has_the_type_of_the_keys():
    assert refine(maps(0.5, 0.6), one(0), KEYS.astype(np.uint8)).dtype == np.uint8


@pytest.mark.parametrize(
    ("cams", "cue", "keys", "message"),
    [
        (maps(0.5, 0.5), np.zeros((1, 2), np.float32), KEYS, r"\(1, 2\) and .* \(1, 1\) differ"),
        (maps(0.5, 0.5), one(0), KEYS[:0], "need 3 keys, the background's first, got 0"),
        (maps(0.5, 0.5), one(0), KEYS[:2], "need 3 keys"),
        (maps(0.5, 0.5), one(0), np.array([0, 3, 3]), r"must differ, got \[0, 3, 3\]"),
        (maps(), one(0), KEYS[:1], "without class activation maps"),
        (maps(0.5, np.nan), one(0), KEYS, "class activation map must lie in .* nan"),
        (maps(0.5, 1.5), one(0), KEYS, "class activation map must lie in .* 1.5"),
        (maps(-0.5, 0.5), one(0), KEYS, "class activation map must lie in .* -0.5"),
        (maps(0.5, 0.5), one(np.nan), KEYS, "background cue must lie in .* nan"),
        (maps(0.5, 0.5), one(255), KEYS, "background cue must lie in .* 255"),
        (np.zeros((2, 0, 4)), np.zeros((0, 4)), KEYS, "at least one pixel"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    cams: np.ndarray, cue: np.ndarray, keys: np.ndarray, message: str
):
    with pytest.raises(ValueError, match=message):
        refine(cams, cue, keys)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_outside_0_to_1_is_refused(threshold: float):
    with pytest.raises(ValueError, match="threshold must be"):
        threshold_background(maps(0.5, 0.5), threshold, KEYS)
