"""What became of each image, a hundred bytes each: hits at every setting, packed.

The settings that figures are read off at are known only once all images are counted. Until then
tasks keep the hits at all of them; maps are not kept.
"""

import dataclasses
from typing import Any, Self

import numpy as np

from c2am_dist.method import metrics
from c2am_dist.method.metrics import CENTRE_SIDES, IOU_LEVELS, THRESHOLDS

NO_CLASS = -1
"""Class index of an image without label."""
WRONG, FAILED, UNPREDICTED = -1, -2, -3
"""Class ranks: not among the classes predicted; a prediction row with an error; no such row."""


def _packed(num_settings: int) -> tuple[int, int]:
    return len(IOU_LEVELS), -(-num_settings // 8)


OUTCOME = np.dtype(
    [
        ("half", "u1"),  # tally.half_of
        ("class_index", "<i4"),  # into Annotations.classes, or NO_CLASS
        ("class_rank", "i1"),  # classes predicted before its own, or one of the above
        ("stored", "?", (len(IOU_LEVELS), 2)),  # the first stored box; the best of all
        ("largest", "u1", _packed(len(THRESHOLDS))),
        ("any_contour", "u1", _packed(len(THRESHOLDS))),
        ("centre", "u1", _packed(len(CENTRE_SIDES))),
    ]
)


def blank(*, half: int, class_index: int | None, class_rank: int | None) -> np.ndarray:
    """The outcome of an image that nothing has localized yet, as a record."""
    outcome = np.zeros((), OUTCOME)
    outcome["half"] = half
    outcome["class_index"] = NO_CLASS if class_index is None else class_index
    outcome["class_rank"] = UNPREDICTED if class_rank is None else class_rank
    return outcome


def pack(best_iou: np.ndarray) -> np.ndarray:
    """An image's hits (uint8 3 ceil(s / 8)) from its best IoU at each of s settings."""
    return np.packbits(metrics.reaches(best_iou), axis=1)


def hits_at(packed: np.ndarray, settings: np.ndarray) -> np.ndarray:
    """Hits (bool n 3) at a setting for each image and IoU level.

    Args:
        packed: uint8 n 3 b, of :func:`pack`.
        settings: int n 3, or 3 for all images alike.
    """
    settings = np.broadcast_to(settings, packed.shape[:2])
    found = np.take_along_axis(packed, (settings // 8)[:, :, None], axis=2)[:, :, 0]
    return (found >> (7 - settings % 8) & 1).astype(bool)


@dataclasses.dataclass(slots=True)
class Outcomes:
    """Those of some images, in no order."""

    parts: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, outcome: np.ndarray) -> None:
        """Keeps the outcome of one image."""
        self.parts.append(outcome.reshape(1))

    def merge(self, other: Self) -> Self:
        """Those of both, which must not share images."""
        return type(self)(self.parts + other.parts)

    def rows(self) -> np.ndarray:
        """All of them (OUTCOME n); from now on they are held as one array."""
        self.parts = [np.concatenate([np.zeros(0, OUTCOME), *self.parts])]
        return self.parts[0]

    def __getstate__(self) -> Any:
        return self.rows()

    def __setstate__(self, rows: np.ndarray) -> None:
        self.parts = [rows]
