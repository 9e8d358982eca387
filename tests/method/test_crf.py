import sys
from pathlib import Path

import numpy as np
import pytest

from c2am_dist.method.crf import CRFMissingError, label_probabilities, refine_labels

IMAGE = np.zeros((4, 5, 3), np.uint8)
LABELS = np.zeros((4, 5), np.int64)


@pytest.fixture
def crf() -> None:
    pytest.importorskip("pydensecrf", reason="dense CRF is optional: pip install pydensecrf2")


def test_golden_crf_is_reproduced(crf: None, golden: Path):
    data = np.load(golden / "wsss.npz")
    image, labels = data["crf_image"], data["crf_labels"]
    found = label_probabilities(image, labels, 2)
    np.testing.assert_array_equal(found, data["crf_prob"], strict=True)
    np.testing.assert_array_equal(refine_labels(image, labels, 2), data["crf_out"], strict=True)
    assert (data["crf_out"] != labels).any()


def test_memory_layout_and_type_do_not_matter(crf: None, golden: Path):
    data = np.load(golden / "wsss.npz")
    image = np.asfortranarray(data["crf_image"])
    labels = np.asfortranarray(data["crf_labels"].astype(np.uint8))
    np.testing.assert_array_equal(refine_labels(image, labels, 2), data["crf_out"])


def test_probabilities_add_up_to_one(crf: None):
    found = label_probabilities(IMAGE, LABELS, 4)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    assert (refine_labels(IMAGE, LABELS, 4) == 0).all()


def test_one_pixel(crf: None):
    assert refine_labels(IMAGE[:1, :1], LABELS[:1, :1] + 1, 2).tolist() == [[1]]


def test_stray_pixel_of_the_same_colour_is_taken_over(crf: None):
    labels = LABELS.copy()
    labels[2, 2] = 1
    assert not refine_labels(IMAGE, labels, 2).any()


@pytest.mark.parametrize(
    ("image", "labels", "num_labels", "message"),
    [
        (IMAGE[:3], LABELS, 2, r"image \(3, 5\) and labels \(4, 5\) differ"),
        (IMAGE[:0], LABELS[:0], 2, "at least one pixel"),
        (IMAGE, LABELS, 1, "at least 2 labels, got 1"),
        (IMAGE, LABELS + 2, 2, "label 2 is not one of 2"),
        (IMAGE, LABELS - 1, 2, "label -1 is not one of 2"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    image: np.ndarray, labels: np.ndarray, num_labels: int, message: str
):
    with pytest.raises(ValueError, match=message):
        label_probabilities(image, labels, num_labels)


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CRFMissingError, match=r"^.*pip install 'c2am-dist\[crf\]'$"):
        refine_labels(IMAGE, LABELS, 2)
