"""The curves behind the figures: accuracy over thresholds, precision over recall."""

import json
from typing import Any

import numpy as np

from c2am_dist import __version__, storage
from c2am_dist.config import EvaluateConfig, to_json
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method.metrics import (
    CENTRE_SIDES,
    IOU_LEVELS,
    THRESHOLDS,
    HitCounts,
    PixelPrecision,
)

FORMAT = 1
"""Raised whenever the content changes meaning; see CHANGELOG.md."""


def uri_beside(output: str) -> str:
    """Where the curves of an evaluation lie, whose metrics lie at ``output``."""
    return output.removesuffix(".json") + ".curves.json"


def write(config: EvaluateConfig, tally: Tally, method: str) -> None:
    """Writes the curves of an evaluation beside its metrics."""
    content = {
        "format": FORMAT,
        "package_version": __version__,
        "config": json.loads(to_json(config)),
        **curves(tally, method),
    }
    text = json.dumps(content, separators=(",", ":")) + "\n"
    storage.write_bytes(uri_beside(config.output), text.encode())


def curves(tally: Tally, method: str) -> dict[str, dict[str, Any]]:
    """Method -> lists of equal length, in percent but for ``threshold`` and ``side``.

    Over all scored images: what the oracle chooses from. ``recall`` and ``precision`` go from
    the highest threshold to the lowest and are there where shards have masks.
    """
    centre = {"side": _shares(CENTRE_SIDES), "max_box_acc": _accuracy(tally.centre)}
    found: dict[str, dict[str, Any]] = {"centre": centre | _precision(tally.centre_pixels)}
    if tally.num_maps:
        found[method] = {
            "threshold": _shares(THRESHOLDS),
            "max_box_acc": _accuracy((tally.boxes[0].largest, tally.boxes[1].largest)),
            "max_box_acc_v2": _accuracy((tally.boxes[0].any_contour, tally.boxes[1].any_contour)),
            **_precision(tally.pixels),
        }
    return found


def _shares(settings: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in settings]


def _accuracy(halves: tuple[HitCounts, HitCounts]) -> dict[str, list[float]]:
    rows = halves[0].merge(halves[1]).accuracy().tolist()
    return {f"{level * 100:.0f}": row for level, row in zip(IOU_LEVELS, rows, strict=True)}


def _precision(pixels: PixelPrecision) -> dict[str, list[float]]:
    if not pixels.has_foreground:
        return {}
    precision, recall = pixels.curve()
    return {"precision": (100 * precision).tolist(), "recall": (100 * recall).tolist()}
