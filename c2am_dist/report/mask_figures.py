"""An evaluation of pseudo masks: mIoU and its parts, and each class."""

import math
from collections.abc import Mapping
from typing import Any

from c2am_dist import storage
from c2am_dist.config import EvaluateMasksConfig
from c2am_dist.report import provenance
from c2am_dist.report.page import Section, Table, Text, json_lines, shown

FORMAT = 1
"""Of the file of classes (`evaluation.masks.FORMAT`)."""
_TITLES = {
    "miou": "mIoU",
    "miou_present": "mIoU of those present",
    "iou": "IoU",
    "baseline_iou": "IoU of the baseline",
    "pxap": "PxAP",
}


def is_of_masks(metrics: Mapping[str, Any]) -> bool:
    """Whether metrics, by method, are those of masks."""
    return any(isinstance(figures, dict) and "miou" in figures for figures in metrics.values())


def section(uri: str, metrics: Mapping[str, Any]) -> Section:
    """Tables of the metrics of masks.

    Args:
        uri: of the metrics; classes are shown where their file stands beside it.
        metrics: what it holds.

    Raises:
        ValueError: a file holds something else; names it and the field.
    """
    tables, texts = [_summary(uri, metrics)], []
    classes_uri = f"{uri.removesuffix('.json')}.classes.json"
    if storage.exists(classes_uri):
        content = storage.read_json(classes_uri)
        if content.get("format") != FORMAT:
            raise ValueError(f"{classes_uri}: not of format {FORMAT}, which this version reads")
        tables.append(_classes(classes_uri, content.get("classes")))
        if isinstance(content.get("config"), dict):
            config = content["config"]
            line = provenance.command("evaluate_masks.py", config, EvaluateMasksConfig())
            texts = [Text("Evaluation: command", [line])]
    texts.append(Text("metrics.json", json_lines(metrics)))
    return Section(
        id="scores",
        title="Scores of the masks",
        notes=[
            "In percent, but for thresholds (shares) and counts. IoU, false and missed activation "
            "of a class are shares of its union, and add up to 100."
        ],
        tables=tables,
        texts=texts,
    )


def _summary(uri: str, metrics: Mapping[str, Any]) -> Table:
    """All figures, a column for each method."""
    for method, figures in metrics.items():
        if not isinstance(figures, dict):
            raise ValueError(f"{uri}: {method!r:.100} is no object of numbers")
    named = dict.fromkeys(name for figures in metrics.values() for name in figures)
    rows = [
        (_title(name), *(_cell(uri, name, figures.get(name)) for figures in metrics.values()))
        for name in named
    ]
    return Table("Metrics", ("metric", *map(shown, metrics)), rows)


def _classes(uri: str, classes: object) -> Table:
    """A row a class, the worst first, with what it gains where there is a baseline."""
    if not isinstance(classes, list) or not all(isinstance(row, dict) for row in classes):
        raise ValueError(f"{uri}: no list of classes")
    columns = list(dict.fromkeys(name for row in classes for name in row if name != "class"))
    cells = [
        [shown(str(row.get("class"))), *(_cell(uri, name, row.get(name)) for name in columns)]
        for row in classes
    ]
    order = sorted(range(len(classes)), key=lambda i: _rank(classes[i].get("iou")))
    head = ["class", *map(_title, columns)]
    return Table("Classes, the worst first", head, [cells[i] for i in order])


def _title(name: str) -> str:
    return _TITLES.get(name, shown(name.replace("_", " ")))


def _rank(value: float | None) -> float:
    """What is none, or no number, stands last."""
    return math.inf if value is None or math.isnan(value) else value


def _cell(uri: str, name: str, value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{uri}: {name!r:.100} is no number")
    if not math.isfinite(value):
        return "–"
    if name.startswith("num_"):
        return f"{value:,}"
    if name.endswith("threshold"):
        return f"{value:.3g}"
    return f"{value:+.1f}" if name == "gain" else f"{value:.1f}"
