"""Which images are hits, metric by metric: read off the outcomes at the chosen settings."""

import numpy as np

from c2am_dist.evaluation import outcomes
from c2am_dist.evaluation.outcomes import UNPREDICTED
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method.metrics import IOU_LEVELS, HitCounts, held_out_settings, is_among_first

Hits = dict[str, dict[str, np.ndarray]]
"""Method -> metric -> whether each image is a hit (bool n)."""
Halves = tuple[HitCounts, HitCounts]
HALF = IOU_LEVELS.index(0.5)
LEVELS = [f"{level * 100:.0f}" for level in IOU_LEVELS]
"""As the metrics' names end."""
TOP = (1, 5)


def image_hits(tally: Tally, method: str) -> Hits:
    """The hits behind every percentage that is a share of all images, in one order."""
    rows = tally.outcomes.rows()
    stored = {f"stored_max_box_acc_v2_{LEVELS[i]}": rows["stored"][:, i, 1] for i in range(3)}
    labels = {"stored_gt_known_loc": rows["stored"][:, HALF, 0]} | stored
    if tally.num_maps:
        largest, any_contour = map_halves(tally)
        labels = {
            **_chosen_hits(rows, "largest", largest, "max_box_acc"),
            **_chosen_hits(rows, "any_contour", any_contour, "max_box_acc_v2"),
            **labels,
        }
    centre = {
        **_chosen_hits(rows, "centre", tally.centre, "max_box_acc"),
        **_chosen_hits(rows, "centre", tally.centre, "max_box_acc_v2"),
    }
    return {method: labels, "centre": centre}


def _chosen_hits(rows: np.ndarray, field: str, halves: Halves, name: str) -> dict[str, np.ndarray]:
    """The hits at the settings that the halves choose for each other, and at the oracle's."""
    settings = {
        "": held_out_settings(*halves)[rows["half"]],
        "oracle_": halves[0].merge(halves[1]).best(),
    }
    return {
        f"{prefix}{name}_{level}": column
        for prefix, chosen in settings.items()
        for level, column in zip(LEVELS, outcomes.hits_at(rows[field], chosen).T, strict=True)
    }


def class_hits(tally: Tally, method: str) -> tuple[Hits, np.ndarray]:
    """The hits of metrics that need a class, of images with a prediction; and which have one.

    Without any image with a prediction there are no hits.
    """
    ranks = tally.outcomes.rows()["class_rank"]
    is_predicted = ranks != UNPREDICTED
    if not is_predicted.any():
        return {}, is_predicted
    bases = {"": "max_box_acc_50", "oracle_": "oracle_max_box_acc_50"}
    bases |= {"stored_": "stored_gt_known_loc"}
    is_among = {k: is_among_first(ranks, k)[is_predicted] for k in TOP}
    found: Hits = {
        name: {
            f"{prefix}top{k}_loc": columns[base][is_predicted] & is_among[k]
            for prefix, base in bases.items()
            if base in columns
            for k in TOP
        }
        for name, columns in image_hits(tally, method).items()
    }
    found["predictions"] = {f"top{k}_accuracy": is_among[k] for k in TOP}
    return found, is_predicted


def map_halves(tally: Tally) -> tuple[Halves, Halves]:
    """Counts of the largest contour, and of any."""
    one, other = tally.boxes
    return (one.largest, other.largest), (one.any_contour, other.any_contour)
