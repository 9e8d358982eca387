"""The figures of masks, in percent, and those of each class."""

from collections.abc import Sequence

import numpy as np

from c2am_dist.evaluation.classes import Row
from c2am_dist.evaluation.mask_tally import MaskTally
from c2am_dist.method.metrics import THRESHOLDS, PixelPrecision


def summarise(tally: MaskTally, *, is_binary: bool, is_cue: bool) -> dict[str, float]:
    """The figures of a tally of at least one counted pixel.

    ``miou`` is over all classes, as published; the other means are over the classes that occur
    in truth or prediction, so that IoU, false and missed activation add up to 100.
    """
    confusion = tally.confusion
    is_present = confusion.is_present()
    figures: dict[str, float] = {
        "miou": 100 * confusion.mean_iou(),
        "miou_present": 100 * confusion.mean_iou(is_present_only=True),
        "pixel_accuracy": 100 * confusion.pixel_accuracy(),
        "false_activation": 100 * float(confusion.false_activation()[is_present].mean()),
        "missed_activation": 100 * float(confusion.missed_activation()[is_present].mean()),
    }
    if is_binary:
        figures["foreground_iou"] = 100 * float(confusion.iou()[1])
    if is_cue and tally.pixels.has_foreground:
        iou = foreground_iou(tally.pixels)
        best = int(iou.argmax())
        figures |= {
            "oracle_foreground_iou": 100 * float(iou[best]),
            "oracle_threshold": float(THRESHOLDS[best]),
            "pxap": tally.pixels.average_precision(),
        }
    return figures | {
        "num_classes": len(is_present),
        "num_classes_present": int(is_present.sum()),
        "num_images": tally.num_images,
        "num_errors": tally.num_errors,
        "num_without_mask": tally.num_without_mask,
    }


def foreground_iou(pixels: PixelPrecision) -> np.ndarray:
    """IoU (float 100) of the pixels that reach each of ``THRESHOLDS``, with the foreground."""
    true = pixels.foreground[::-1].cumsum()[::-1][: len(THRESHOLDS)]
    false = pixels.background[::-1].cumsum()[::-1][: len(THRESHOLDS)]
    return true / (pixels.foreground.sum() + false)


def by_class(
    tally: MaskTally, classes: Sequence[str], baseline: MaskTally | None = None
) -> list[Row]:
    """A row for each class in the order of ids; figures of a class that never occurs are None.

    With a baseline its IoU stands beside, and rows are ordered by what is gained over it.
    """
    confusion = tally.confusion
    figures = {
        "iou": confusion.iou(),
        "false_activation": confusion.false_activation(),
        "missed_activation": confusion.missed_activation(),
    }
    is_present = confusion.is_present()
    num_pixels = confusion.counts.sum(axis=1).tolist()
    rows: list[Row] = []
    for i, name in enumerate(classes):
        row: Row = {"class": name, "num_pixels": num_pixels[i]}
        row |= {
            figure: 100 * float(values[i]) if is_present[i] else None
            for figure, values in figures.items()
        }
        if baseline is not None:
            row |= _beside(row, baseline, i)
        rows.append(row)
    if baseline is not None:
        rows.sort(key=lambda row: -gain(row) if row["gain"] is not None else np.inf)
    return rows


def _beside(row: Row, baseline: MaskTally, i: int) -> Row:
    """What a class has with the baseline; in which alone it may occur, as a false activation."""
    if row["iou"] is None and not baseline.confusion.is_present()[i]:
        return {"baseline_iou": None, "gain": None}
    theirs = 100 * float(baseline.confusion.iou()[i])
    return {"baseline_iou": theirs, "gain": float(row["iou"] or 0) - theirs}


def gain(row: Row) -> float:
    """What a class gains; 0 where it never occurs."""
    return float(row["gain"] or 0)
