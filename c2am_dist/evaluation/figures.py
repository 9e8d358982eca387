"""The figures of a tally: percentages, their confidence intervals, and each class's.

Plain names (``gt_known_loc``) are honest: the setting of each half of the images is the one that
is best on the other half. ``oracle_`` ones choose on the images they score; ``stored_`` ones are
of the boxes as they are written. Top-k Loc is read off at the settings of GT-known Loc.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from c2am_dist.evaluation.hits import HALF, LEVELS, Halves, class_hits, image_hits, map_halves
from c2am_dist.evaluation.outcomes import FAILED, UNPREDICTED
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method.intervals import percentile_interval, resampled_shares
from c2am_dist.method.metrics import (
    CENTRE_SIDES,
    THRESHOLDS,
    held_out_accuracy,
    oracle_accuracy,
)

Metrics = dict[str, dict[str, float]]
"""Method -> metric -> percentage, threshold, side or count."""
Intervals = dict[str, dict[str, tuple[float, float]]]
"""Method -> metric -> the ends of its confidence interval, in percent."""
CONFIDENCE = 0.95
SEED = 0
"""Of the resamples."""


def summarise(tally: Tally, method: str) -> Metrics:
    """The figures of a tally, in percent: of the labels, the centred box and the predictions.

    Args:
        tally: of at least one image.
        method: which labeled.

    Raises:
        ValueError: some labels have an activation map and some do not.
    """
    num_labeled = tally.num_images - tally.num_errors
    if 0 < tally.num_maps < num_labeled:
        raise ValueError(
            f"{num_labeled - tally.num_maps} of {num_labeled} labels lack an activation map: "
            "label with one --write-maps throughout"
        )
    labels: dict[str, float] = {}
    if tally.num_maps:
        labels |= _localization(*map_halves(tally), THRESHOLDS, "threshold")
        if tally.pixels.has_foreground:
            labels["pxap"] = tally.pixels.average_precision()
    accuracy = tally.stored.accuracy()
    stored = {f"stored_max_box_acc_v2_{LEVELS[i]}": float(accuracy[i, 1]) for i in range(3)}
    labels |= composed({"stored_gt_known_loc": float(accuracy[HALF, 0])} | stored)
    centre = _localization(tally.centre, tally.centre, CENTRE_SIDES, "side")
    if tally.centre_pixels.has_foreground:
        centre["pxap"] = tally.centre_pixels.average_precision()
    metrics = {method: labels, "centre": centre}
    for name, columns in class_hits(tally, method)[0].items():
        shares = {metric: 100 * int(hits.sum()) / len(hits) for metric, hits in columns.items()}
        metrics[name] = metrics.get(name, {}) | shares
    for figures in (labels, centre):
        figures |= _cor_loc(figures, tally)
    return _with_counts(metrics, tally, method)


def _with_counts(metrics: Metrics, tally: Tally, method: str) -> Metrics:
    counts = {"num_images": tally.num_images, "num_without_boxes": tally.num_without_boxes}
    found = {
        method: metrics[method] | {"num_errors": tally.num_errors} | counts,
        "centre": metrics["centre"] | counts,
    }
    if "predictions" in metrics:
        ranks = tally.outcomes.rows()["class_rank"]
        found["predictions"] = metrics["predictions"] | {
            "num_errors": int((ranks == FAILED).sum()),
            "num_images": int((ranks != UNPREDICTED).sum()),
        }
    return found


def _localization(
    largest: Halves, any_contour: Halves, settings: np.ndarray, setting: str
) -> dict[str, float]:
    """The metrics that depend on a setting: held-out and oracle ones.

    ``{setting}`` is the mean of the two that the halves chose, ``oracle_{setting}`` the best on
    all images, both for GT-known Loc.
    """
    both, both_any = largest[0].merge(largest[1]), any_contour[0].merge(any_contour[1])
    figures = {
        "": (held_out_accuracy(*largest), held_out_accuracy(*any_contour)),
        "oracle_": (oracle_accuracy(both), oracle_accuracy(both_any)),
    }
    shares: dict[str, float] = {}
    for prefix, (v1, v2) in figures.items():
        for i, level in enumerate(LEVELS):
            shares[f"{prefix}max_box_acc_{level}"] = float(v1[i])
            shares[f"{prefix}max_box_acc_v2_{level}"] = float(v2[i])
    chosen = [float(settings[half.best()[HALF]]) for half in largest if half.num_images]
    return composed(shares) | {
        setting: float(np.mean(chosen)),
        f"oracle_{setting}": float(settings[both.best()[HALF]]),
    }


def composed(shares: Mapping[str, Any]) -> dict[str, Any]:
    """Figures, or arrays of them, after those made of them, as far as they are there.

    GT-known Loc is MaxBoxAcc at IoU 0.5, and MaxBoxAccV2 is an average over IoU levels.
    """
    made: dict[str, Any] = {}
    for prefix in ("", "oracle_", "stored_"):
        if f"{prefix}max_box_acc_50" in shares:
            made[f"{prefix}gt_known_loc"] = shares[f"{prefix}max_box_acc_50"]
            made[f"{prefix}max_box_acc"] = shares[f"{prefix}max_box_acc_50"]
        if f"{prefix}max_box_acc_v2_50" in shares:
            levels = [shares[f"{prefix}max_box_acc_v2_{level}"] for level in LEVELS]
            made[f"{prefix}max_box_acc_v2"] = sum(levels) / len(levels)
    return made | dict(shares)


def _cor_loc(figures: Mapping[str, Any], tally: Tally) -> dict[str, Any]:
    """CorLoc: GT-known Loc, where all images are of the training split."""
    if tally.num_train < tally.num_images:
        return {}
    names = {"gt_known_loc": "cor_loc", "stored_gt_known_loc": "stored_cor_loc"}
    return {new: figures[old] for old, new in names.items() if old in figures}


def intervals(tally: Tally, method: str, *, num_resamples: int) -> Intervals:
    """Confidence intervals of all figures that are shares of images: PxAP is none.

    Percentile bootstrap over images. Settings stay those that the figures are read off at, as
    the halves or the oracle chose them on the whole set; they are not chosen anew in a resample.
    So the interval is of the accuracy at these settings, and an oracle's optimism is not in it.
    """
    found: Intervals = {}
    for hits in (image_hits(tally, method), class_hits(tally, method)[0]):
        for name, columns in hits.items():
            stacked = np.stack(list(columns.values()), axis=1)
            shares = resampled_shares(stacked, num_resamples=num_resamples, seed=SEED)
            resampled = composed(dict(zip(columns, 100 * shares.T, strict=True)))
            resampled |= _cor_loc(resampled, tally)
            ends = {
                metric: percentile_interval(values, confidence=CONFIDENCE)
                for metric, values in resampled.items()
            }
            found[name] = found.get(name, {}) | ends
    return found
