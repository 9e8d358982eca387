"""What is counted of each image. Counts of different images merge; figures come last."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from c2am_dist.evaluation import outcomes
from c2am_dist.evaluation.outcomes import Outcomes
from c2am_dist.method import metrics
from c2am_dist.method.boxes import PROTOCOL_PX, gt_to_protocol, iou, to_protocol
from c2am_dist.method.images import ImageError, decode_mask, decode_png16
from c2am_dist.method.metrics import BoxAccuracy, HitCounts, PixelPrecision

_NO_MAP = np.zeros((PROTOCOL_PX, PROTOCOL_PX), np.float32)


def half_of(image_id: str) -> int:
    """Which half, 0 or 1, an image belongs to: the last bit of its id's SHA-256."""
    return hashlib.sha256(image_id.encode()).digest()[-1] & 1


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts over some images; pairs hold the two halves of :func:`half_of` apart."""

    boxes: tuple[BoxAccuracy, BoxAccuracy]
    centre: tuple[HitCounts, HitCounts]
    stored: HitCounts
    """Of the boxes as written, half-open; its two settings: the first box, and the best of all."""
    pixels: PixelPrecision
    centre_pixels: PixelPrecision
    outcomes: Outcomes
    num_images: int = 0
    num_train: int = 0
    """Images of the training split."""
    num_errors: int = 0
    num_maps: int = 0
    num_without_boxes: int = 0
    """Images left out, since no box of theirs is known."""

    @classmethod
    def empty(cls) -> Self:
        num_sides = len(metrics.CENTRE_SIDES)
        return cls(
            (BoxAccuracy.empty(), BoxAccuracy.empty()),
            (HitCounts.empty(num_sides), HitCounts.empty(num_sides)),
            HitCounts.empty(2),
            PixelPrecision.empty(),
            PixelPrecision.empty(),
            Outcomes(),
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts one row of ``inputs.join``; a row with an error is wrong everywhere.

        Raises:
            ValueError: the map or the mask cannot be decoded, or the label is of an image
                of another size than the annotation; the message names the image.
        """
        if not row["boxes"]:
            self.num_without_boxes += 1
            return
        self.num_images += 1
        self.num_train += row["split"] == "train"
        gt_boxes = np.array(row["boxes"], np.int32)
        half = half_of(row["image_id"])
        outcome = outcomes.blank(
            half=half, class_index=row["class_index"], class_rank=row["class_rank"]
        )
        centre_iou = metrics.centre_iou(gt_boxes, row["size"])
        self.centre[half].add(centre_iou)
        outcome["centre"] = outcomes.pack(centre_iou)
        try:
            self._add_label(row, gt_boxes, self.boxes[half], outcome)
        except (ImageError, ValueError) as error:
            raise ValueError(f"image {row['image_id']!r}: {error}") from error
        self.outcomes.add(outcome)

    def _add_label(
        self,
        row: Mapping[str, Any],
        gt_boxes: np.ndarray,
        accuracy: BoxAccuracy,
        outcome: np.ndarray,
    ) -> None:
        activation = None
        if row["error"] is not None:
            self.num_errors += 1
            accuracy.add_miss()
            self.stored.add_miss()
        else:
            if row["label_size"] != row["size"]:
                raise ValueError(
                    f"the label says (height, width) = {row['label_size']}, "
                    f"the annotation {row['size']}"
                )
            stored_iou = _stored_iou(row["pseudo_boxes"], gt_boxes)
            self.stored.add(stored_iou)
            outcome["stored"] = metrics.reaches(stored_iou)
            if row["activation_map"] is not None:
                self.num_maps += 1
                activation = to_protocol(decode_png16(row["activation_map"]))
                found = metrics.contour_iou(activation, gt_to_protocol(gt_boxes, row["size"]))
                accuracy.add_iou(*found)
                outcome["largest"], outcome["any_contour"] = map(outcomes.pack, found)
        if row["mask"] is not None:
            mask = metrics.mask_to_protocol(decode_mask(row["mask"]))
            self.pixels.add(_NO_MAP if activation is None else activation, mask)
            self.centre_pixels.add(metrics.CENTRE_MAP, mask)

    def merge(self, other: Self) -> Self:
        """The counts of both, which must not share images."""
        merged: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, int):
                merged[field.name] = mine + theirs
            elif isinstance(mine, tuple):
                merged[field.name] = tuple(a.merge(b) for a, b in zip(mine, theirs, strict=True))
            else:
                merged[field.name] = mine.merge(theirs)
        return type(self)(**merged)


def _stored_iou(pseudo_boxes: list[dict[str, Any]] | None, gt_boxes: np.ndarray) -> np.ndarray:
    """The best IoU (float 2) of the first box, and of any; 0 without boxes."""
    if not pseudo_boxes:
        return np.zeros(2)
    boxes = np.array([[box[k] for k in ("x0", "y0", "x1", "y1")] for box in pseudo_boxes], np.int32)
    best = iou(boxes, gt_boxes).max(axis=1)
    return np.array([best[0], best.max()])
