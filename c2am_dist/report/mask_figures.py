"""An evaluation of pseudo masks: mIoU and its parts, and each class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from c2am_dist.config import EvaluateMasksConfig
from c2am_dist.report import provenance
from c2am_dist.report.page import Section, Table, Text, json_lines, shown

FORMAT = 1
"""Of the metrics, which this version reads."""
_TITLES = {
    "iou": "IoU",
    "baseline_iou": "IoU of the baseline",
    "gain": "gain",
    "false_activation": "false activation",
    "missed_activation": "missed activation",
}


def is_of_masks(content: Mapping[str, Any]) -> bool:
    """Whether a file of metrics is that of masks."""
    return "miou" in content and "classes" in content


def section(uri: str, content: Mapping[str, Any]) -> Section:
    """Tables of the metrics of masks.

    Args:
        uri: of the file, for messages.
        content: what it holds.

    Raises:
        ValueError: it holds something else; names the file and the field.
    """
    if content.get("format") != FORMAT:
        raise ValueError(f"{uri}: not of format {FORMAT}, which this version reads")
    classes = content["classes"]
    if not isinstance(classes, list) or not all(isinstance(row, dict) for row in classes):
        raise ValueError(f"{uri}: no list of classes")
    texts = []
    if isinstance(content.get("config"), dict):
        config = content["config"]
        line = provenance.command("evaluate_masks.py", config, EvaluateMasksConfig())
        texts = [Text("Evaluation: command", [line])]
    texts.append(Text("Metrics as JSON", json_lines(content)))
    return Section(
        id="scores",
        title="Scores of the masks",
        notes=[
            "In percent, but for counts. IoU, false and missed activation of a class are shares of "
            "its union, and add up to 100."
        ],
        tables=[_summary(uri, content), _classes(uri, classes)],
        texts=texts,
    )


def _summary(uri: str, content: Mapping[str, Any]) -> Table:
    """All figures beside the classes'."""
    skip = ("format", "package_version", "config", "classes")
    rows = []
    for name, value in content.items():
        if name not in skip and not isinstance(value, dict | list | str | bool):
            title = {"miou": "mIoU", "baseline_miou": "mIoU of the baseline"}.get(name, name)
            rows.append((shown(title.replace("_", " ")), _cell(uri, name, value)))
    return Table("Metrics", ("metric", "value"), rows)


def _classes(uri: str, classes: Sequence[Mapping[str, Any]]) -> Table:
    """A row a class, the worst first, with what it gains where there is a baseline."""
    with_gain = [_with_gain(uri, row) for row in classes]
    named = dict.fromkeys(name for row in with_gain for name in row if name != "class")
    columns = [name for name in _TITLES if name in named]
    columns += [name for name in named if name not in _TITLES]
    ordered = sorted(with_gain, key=lambda row: _rank(row.get("iou")))
    rows = [
        [shown(str(row.get("class"))), *(_cell(uri, name, row.get(name)) for name in columns)]
        for row in ordered
    ]
    head = ["class", *(_TITLES.get(name, shown(name.replace("_", " "))) for name in columns)]
    return Table("Classes, the worst first", head, rows)


def _with_gain(uri: str, row: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in row.items():
        if name != "class":
            _cell(uri, name, value)
    ours, theirs = row.get("iou"), row.get("baseline_iou")
    if ours is None or theirs is None:
        return dict(row)
    return {**row, "gain": ours - theirs}


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
    return f"{value:+.1f}" if name == "gain" else f"{value:.1f}"
