"""A run's training curves, from its ``metrics.jsonl``."""

import json
import math
from collections.abc import Sequence
from typing import Any

from c2am_dist import storage
from c2am_dist.report.charts import Chart, Series
from c2am_dist.report.page import Section

_TERMS = {
    "loss": "loss",
    "positive_foreground": "positive, foreground",
    "positive_background": "positive, background",
    "negative": "negative",
    "classification": "classification",
    "drop": "attentive dropout",
    "similarity": "similarity",
    "norm": "norm",
}


def section(uri: str) -> Section | None:
    """The curves of a run; None where it has written no row of metrics.

    Raises:
        ValueError: a row holds something else than numbers; names the file.
    """
    path = storage.join(uri, "metrics.jsonl")
    rows = _rows(path) if storage.exists(path) else []
    if not rows:
        return None
    charts = [
        _chart(rows, _TERMS, "Loss and its terms", "loss", "The training loss and its terms"),
        _chart(rows, {"accuracy": "training images"}, "Accuracy", "share of the images right",
               "The classifier's accuracy", (0, 1)),
        _chart(rows, {"box_iou": "training images"}, "Overlap with pseudo boxes", "IoU",
               "Mean overlap of the regressor's boxes with the pseudo boxes", (0, 1)),
        _chart(rows, {"data_wait_fraction": "data wait"}, "Waiting for data", "share of the time",
               "The share of the time that steps waited for data", (0, 1)),
        _chart(rows, {"activation_mean": "mean", "activation_std": "standard deviation"},
               "Activation P", "P", "Mean and standard deviation of P over images and cells",
               (0, 1)),
        _chart(rows, {"images_per_s": "images"}, "Throughput", "images per second",
               "Images trained per second"),
    ]  # fmt: skip
    replaced = sum(int(row.get("images_replaced", 0)) for row in rows)
    notes = [f"{replaced:,} images could not be decoded and were replaced."] if replaced else []
    charts = [chart for chart in charts if chart is not None]
    return Section(id="training", title="Training", notes=notes, charts=charts)


def _rows(uri: str) -> list[dict[str, float]]:
    rows = []
    lines = storage.read_bytes(uri).decode(errors="replace").splitlines()
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1:
                break  # cut short by a crash, or still being written
            raise ValueError(f"{uri}: line {number + 1} is not JSON ({error})") from error
        if not isinstance(row, dict) or not all(map(_is_number, row.values())):
            raise ValueError(f"{uri}: line {number + 1} is no object of numbers")
        if "step" not in row:
            raise ValueError(f"{uri}: line {number + 1} has no step")
        rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chart(
    rows: Sequence[dict[str, float]],
    names: dict[str, str],
    title: str,
    y_label: str,
    description: str,
    y_range: tuple[float, float] | None = None,
) -> Chart | None:
    found = [
        Series(name=text, points=[(row["step"], row[name]) for row in rows if name in row])
        for name, text in names.items()
    ]
    found = [each for each in found if any(math.isfinite(y) for _, y in each.points)]
    if not found:
        return None
    return Chart(
        title=title,
        description=f"{description}, over optimizer steps; means since the last row.",
        x_label="optimizer step",
        y_label=y_label,
        series=found,
        y_range=y_range,
    )
