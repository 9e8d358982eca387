"""Segmentation scores from one confusion matrix: add image after image, merge, then compute.

Rates are shares in [0, 1]. A class's pixels fall in three parts, whose sum is the *union*: hits
(predicted and true), false activation (predicted, but another class or background) and missed
activation (true, but not predicted); so IoU, false and missed activation add up to 1.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8

IGNORED = 255
"""The id of annotated pixels that count for nothing (METHODS.md, "Metrics")."""
# OpenCV counts in 32-bit integers but hands out float32, exact up to here.
_MAX_EXACT = 2**24
# The published code's, which makes the rates of a class that never occurs 0; it changes the
# others by 1e-10 of a pixel.
_EPSILON = 1e-10


@dataclasses.dataclass(slots=True)
class ConfusionMatrix:
    """Pixels by their true and their predicted class, 255 left out.

    Source of the figures: METHODS.md, "Metrics"; false and missed activation as the authors'
    code has them (CVI-SZU/CCAM, WSSS/evaluate_using_background_cues.py: "FP" and "FN", over the
    union), since the paper speaks of them without a formula; golden/wsss.npz.
    """

    counts: Int64[np.ndarray, "c c"]
    """Rows are true classes, columns predicted ones; the background is class 0."""

    @classmethod
    def empty(cls, num_classes: int) -> "ConfusionMatrix":
        """No pixels yet, of ``num_classes`` classes with the background's: K + 1, at most 255.

        Raises:
            ValueError: fewer than 2 classes, or more than leave 255 free.
        """
        if not 2 <= num_classes <= IGNORED:
            raise ValueError(f"num_classes must be 2 to {IGNORED}, got {num_classes}")
        return cls(np.zeros((num_classes, num_classes), np.int64))

    def add(
        self,
        prediction: Integer[np.ndarray, "_ _"] | Bool[np.ndarray, "_ _"],
        truth: Integer[np.ndarray, "_ _"] | Bool[np.ndarray, "_ _"],
    ) -> None:
        """Counts one image's pixels, except those whose true class is 255.

        Fastest with uint8, which is not copied.

        Args:
            prediction: class ids 0 to K; what it says of ignored pixels does not matter.
            truth: class ids 0 to K, or 255; of the prediction's size.

        Raises:
            ValueError: sizes differ or are 0, or an id is not of the label map; it is named.
                Nothing is counted then.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction {prediction.shape} and truth {truth.shape} differ in size"
            )
        if truth.size == 0:
            raise ValueError(f"masks need at least one pixel, got shape {truth.shape}")
        num_classes = len(self.counts)
        rows, columns = _as_bytes("truth", truth), _as_bytes("prediction", prediction)
        counts = _joint_counts(rows, columns, num_classes)
        num_valid = rows.size - np.count_nonzero(rows == IGNORED)
        if counts.sum() != num_valid:
            raise ValueError(_name_stray(rows, columns, num_classes))
        self.counts += counts

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """The counts of both, which must not share images.

        Raises:
            ValueError: their numbers of classes differ.
        """
        if len(self.counts) != len(other.counts):
            raise ValueError(
                f"{len(self.counts)} classes cannot be merged with {len(other.counts)}"
            )
        return type(self)(self.counts + other.counts)

    def iou(self) -> Float64[np.ndarray, " c"]:
        """Hits over the union of each class, in [0, 1]; 0 for a class that never occurs."""
        return np.diag(self.counts) / (self._union() + _EPSILON)

    def mean_iou(self, *, is_present_only: bool = False) -> float:
        """The mean of :meth:`iou` over all classes, the background among them: mIoU.

        Args:
            is_present_only: over the classes of :meth:`is_present` alone. The published figure
                takes all, which is the same where every class occurs, as in the whole of VOC.

        Raises:
            ValueError: no pixel has been counted.
        """
        self._refuse_empty("mIoU")
        iou = self.iou()
        return float(iou[self.is_present()].mean() if is_present_only else iou.mean())

    def false_activation(self) -> Float64[np.ndarray, " c"]:
        """Pixels wrongly predicted to be of each class, over its union, in [0, 1]."""
        return (self.counts.sum(axis=0) - np.diag(self.counts)) / (self._union() + _EPSILON)

    def missed_activation(self) -> Float64[np.ndarray, " c"]:
        """Pixels of each class that are predicted to be something else, over its union."""
        return (self.counts.sum(axis=1) - np.diag(self.counts)) / (self._union() + _EPSILON)

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels whose class is right.

        Raises:
            ValueError: no pixel has been counted.
        """
        self._refuse_empty("pixel accuracy")
        return float(np.trace(self.counts) / self.counts.sum())

    def is_present(self) -> Bool[np.ndarray, " c"]:
        """Which classes occur at all, in truth or prediction."""
        return self._union() > 0

    def _union(self) -> Int64[np.ndarray, " c"]:
        return self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts)

    def _refuse_empty(self, figure: str) -> None:
        if not self.counts.any():
            raise ValueError(f"{figure} of no pixels")


def foreground(
    mask: UInt8[np.ndarray, "h w"], *, ignored: int | None = IGNORED
) -> UInt8[np.ndarray, "h w"]:
    """The mask of two classes: 0 is background, 255 in the result ignored, all else 1.

    Class 1 of a :class:`ConfusionMatrix` of two classes then has the IoU of the foreground.

    Args:
        mask: 0 is background.
        ignored: the mask's id of pixels that count for nothing. None for the masks of
            CUB-200-2011, which are grey levels: 255 is what all annotators saw as the bird.
    """
    table = np.ones(256, np.uint8)
    table[0] = 0
    if ignored is not None:
        table[ignored] = IGNORED
    return table[mask]


def _as_bytes(name: str, ids: np.ndarray) -> UInt8[np.ndarray, "1 n"]:
    if ids.dtype == np.bool_:
        ids = ids.astype(np.uint8)
    elif ids.dtype != np.uint8:
        low, high = ids.min(), ids.max()
        if low < 0 or high > IGNORED:
            raise ValueError(f"{name} holds {low if low < 0 else high}, which is no class id")
        ids = ids.astype(np.uint8)
    return ids.reshape(1, -1)


def _joint_counts(
    truth: UInt8[np.ndarray, "1 n"], prediction: UInt8[np.ndarray, "1 n"], num_classes: int
) -> Int64[np.ndarray, "c c"]:
    """How often each pair of ids below ``num_classes`` occurs; other pairs are left out.

    One pass over the bytes as they are, which is faster than np.bincount even of an index that
    costs nothing.
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    sizes, ranges = [num_classes, num_classes], [0, num_classes, 0, num_classes]
    for start in range(0, truth.shape[1], _MAX_EXACT):
        part = [ids[:, start : start + _MAX_EXACT] for ids in (truth, prediction)]
        counts += cv2.calcHist(part, [0, 1], None, sizes, ranges).astype(np.int64)
    return counts


def _name_stray(
    truth: UInt8[np.ndarray, "1 n"], prediction: UInt8[np.ndarray, "1 n"], num_classes: int
) -> str:
    is_valid = truth != IGNORED
    true_ids, predicted_ids = truth[is_valid], prediction[is_valid]
    name, ids = "truth", true_ids
    if true_ids.max() < num_classes:
        name, ids = "prediction", predicted_ids
    return f"{name} holds {ids.max()}, which is none of {num_classes} class ids"
