"""Dense CRF: a mask that follows the edges of the image it belongs to.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials" (NeurIPS 2011), by the optional package pydensecrf2, which is imported where it is
needed. The constants are those of the authors' code: METHODS.md, "Background cues".
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt8

ITERATIONS = 10
LABEL_CONFIDENCE = 0.7
"""How probable each pixel's label is before its surroundings are looked at."""
GAUSSIAN_SXY, GAUSSIAN_COMPAT = 3, 3
"""Reach in pixels and weight of the term that wants neighbours alike."""
BILATERAL_SXY, BILATERAL_SRGB, BILATERAL_COMPAT = 50, 5, 10
"""Reach in pixels and in grey levels, and weight, of the term for pixels of like colour."""


class CRFMissingError(ValueError):
    """The optional package is not installed; the message says how to get it."""


def check_installed() -> None:
    """Raises CRFMissingError where the optional package is missing."""
    _densecrf()


def refine_labels(
    image: UInt8[np.ndarray, "_ _ 3"], labels: Integer[np.ndarray, "_ _"], num_labels: int
) -> Int64[np.ndarray, "h w"]:
    """The label that is most probable at each pixel; of equals the lowest.

    Arguments and errors are those of :func:`label_probabilities`.
    """
    return label_probabilities(image, labels, num_labels).argmax(axis=0)


def label_probabilities(
    image: UInt8[np.ndarray, "_ _ 3"], labels: Integer[np.ndarray, "_ _"], num_labels: int
) -> Float32[np.ndarray, "n h w"]:
    """How probable each label is at each pixel, in [0, 1]; they add up to 1.

    Labels count channels, not classes: for a pseudo mask of some classes, take what they are
    before ``keys`` names them. Source: golden/wsss.npz.

    Args:
        image: RGB, as it is stored.
        labels: 0 to ``num_labels`` - 1, of the image's size.
        num_labels: how many labels there may be, at least 2: more of them make each label that
            a pixel does not have less probable.

    Raises:
        ValueError: sizes differ or are 0, there are fewer than 2 labels, or a label is not one
            of them; it is named.
        CRFMissingError: pydensecrf2 is not installed.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image {image.shape[:2]} and labels {labels.shape} differ in size")
    if labels.size == 0:
        raise ValueError(f"labels need at least one pixel, got shape {labels.shape}")
    if num_labels < 2:
        raise ValueError(f"a CRF chooses among at least 2 labels, got {num_labels}")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_labels:
        raise ValueError(f"label {low if low < 0 else high} is not one of {num_labels}")
    densecrf = _densecrf()
    height, width = labels.shape
    crf = densecrf.DenseCRF2D(width, height, num_labels)
    crf.setUnaryEnergy(_unary_energy(labels, num_labels))
    crf.addPairwiseGaussian(sxy=GAUSSIAN_SXY, compat=GAUSSIAN_COMPAT)
    crf.addPairwiseBilateral(
        sxy=BILATERAL_SXY,
        srgb=BILATERAL_SRGB,
        rgbim=np.ascontiguousarray(image),
        compat=BILATERAL_COMPAT,
    )
    return np.array(crf.inference(ITERATIONS), np.float32).reshape(num_labels, height, width)


def _densecrf() -> Any:
    try:
        import pydensecrf.densecrf as densecrf
    except ImportError as error:
        raise CRFMissingError(
            "dense CRF needs the package pydensecrf2: pip install 'c2am-dist[crf]'"
        ) from error
    return densecrf


def _unary_energy(
    labels: Integer[np.ndarray, "h w"], num_labels: int
) -> Float32[np.ndarray, "n h*w"]:
    """Minus the logarithm of each label's probability before inference."""
    other = (1 - LABEL_CONFIDENCE) / (num_labels - 1)
    energy = np.full((num_labels, labels.size), -np.log(other), np.float32)
    energy[labels.ravel(), np.arange(labels.size)] = -np.log(LABEL_CONFIDENCE)
    return energy
