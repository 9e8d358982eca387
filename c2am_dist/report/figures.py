"""An evaluation's figures: ``metrics.json``, and beside it its curves, intervals and classes."""

from collections.abc import Mapping
from typing import Any

from c2am_dist import storage
from c2am_dist.config import EvaluateConfig
from c2am_dist.report import provenance
from c2am_dist.report.charts import Chart, Mark, Series
from c2am_dist.report.page import Section, Table, Text, json_lines, shown

_TITLES = {
    "c2am": "C²AM",
    "cam": "CAM",
    "bridging": "Bridging the Gap",
    "ddt": "DDT",
    "psol": "PSOL",
    "centre": "centred box",
}
_LEVELS = ("30", "50", "70")
_FORMATS = {"curves": 1, "intervals": 1, "classes": 1}
"""Of the files beside the metrics (`evaluation.curves.FORMAT`, `evaluation.job.FORMAT`)."""

_Metrics = Mapping[str, Mapping[str, float]]


def section(uri: str) -> Section:
    """Tables and curves of an evaluation.

    Args:
        uri: of its metrics; curves, intervals and classes are shown where their files stand
            beside it.

    Raises:
        FileNotFoundError: there are no metrics.
        ValueError: a file holds something else; names it.
    """
    metrics = _metrics(uri)
    curves_uri, curves = _beside(uri, "curves")
    intervals_uri, intervals = _beside(uri, "intervals")
    classes_uri, classes = _beside(uri, "classes")
    notes = [
        "In percent, but for thresholds and sides (shares) and counts. Plain names are honest; "
        "those that begin with oracle chose their threshold on the images they score."
    ]
    if not curves:
        notes.append(
            f"No curves: {storage.name(curves_uri)} is not there. jobs/evaluate.py writes it."
        )
    if intervals:
        notes.append(
            f"In brackets {100 * _number(intervals_uri, intervals, 'confidence'):g} % intervals, "
            f"from {_number(intervals_uri, intervals, 'num_resamples'):,} resamples of the images."
        )
    tables = [_table(metrics, _intervals(intervals_uri, intervals))]
    if classes:
        tables.append(_class_table(classes_uri, classes))
    texts = []
    if isinstance(curves.get("config"), dict):
        line = provenance.command("evaluate.py", curves["config"], EvaluateConfig())
        texts = [Text("Evaluation: command", [line])]
    texts.append(Text("metrics.json", json_lines(metrics)))
    return Section(
        id="scores",
        title="Scores",
        notes=notes,
        tables=tables,
        charts=[*_accuracy(uri, curves, metrics), *_precision(uri, curves, metrics)],
        texts=texts,
    )


def _metrics(uri: str) -> dict[str, dict[str, float]]:
    content = storage.read_json(uri)
    for method, figures in content.items():
        if not isinstance(figures, dict) or not all(map(_is_number, figures.values())):
            raise ValueError(f"{uri}: {method!r:.100} is no object of numbers")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _beside(uri: str, name: str) -> tuple[str, dict[str, Any]]:
    """The URI of a file beside the metrics, and what it holds; {} where there is none."""
    found = f"{uri.removesuffix('.json')}.{name}.json"
    if not storage.exists(found):
        return found, {}
    content = storage.read_json(found)
    if content.get("format") != _FORMATS[name]:
        raise ValueError(f"{found}: not of format {_FORMATS[name]}, which this version reads")
    return found, content


def _number(uri: str, content: Mapping[str, Any], name: str) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{uri}: {name} is no number")
    return value


def _intervals(uri: str, content: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """``[57.1, 60.4]`` of a method and a metric.

    Raises:
        ValueError: there is something else; names it.
    """
    found = {}
    try:
        for method, metrics in content.get("intervals", {}).items():
            for name, (low, high) in metrics.items():
                found[method, name] = f"[{low:.1f}, {high:.1f}]"
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{uri}: the intervals are no pairs of numbers") from error
    return found


def _table(metrics: _Metrics, intervals: Mapping[tuple[str, str], str]) -> Table:
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    rows = []
    for name in names:
        cells = (
            f"{_cell(name, figures.get(name))} {intervals.get((method, name), '')}".rstrip()
            for method, figures in metrics.items()
        )
        rows.append([name, *cells])
    return Table("Metrics", ["metric", *map(_title, metrics)], rows)


def _class_table(uri: str, content: Mapping[str, Any]) -> Table:
    """A row a class, the worst localized first."""
    rows = content.get("classes")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{uri}: no list of classes")
    columns = [name for name in rows[0] if name != "class"]
    for row in rows:
        for name in columns:
            if row.get(name) is not None:
                _number(uri, row, name)
    first = next((name for name in columns if name.endswith("gt_known_loc")), "")
    rows = sorted(rows, key=lambda row: (row.get(first) is None, row.get(first)))
    cells = [
        [shown(str(row.get("class"))), *(_cell(name, row.get(name)) for name in columns)]
        for row in rows
    ]
    return Table("Classes, the worst first", ["class", *columns], cells)


def _title(method: str) -> str:
    return _TITLES.get(method, method.replace("_", " "))


def _methods(curves: Mapping[str, Any]) -> list[str]:
    """The entries of the curves' file that are a method's, the label set's first."""
    found = [name for name, value in curves.items() if isinstance(value, dict) and name != "config"]
    return sorted(found, key=lambda name: name == "centre")


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.startswith("num_"):
        return f"{value:,}"
    return f"{value:.3g}" if name.endswith(("threshold", "side")) else f"{value:.1f}"


def _numbers(uri: str, method: Mapping[str, Any], *path: str) -> list[float]:
    """A list of numbers in a method's curves; [] where there is none.

    Raises:
        ValueError: something else is there.
    """
    found: Any = method
    for name in path:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    if found == {}:
        return []
    if not isinstance(found, list) or not all(map(_is_number, found)):
        raise ValueError(f"{uri}: {'.'.join(path)} of the curves is no list of numbers")
    return found


def _pairs(xs: list[float], ys: list[float]) -> list[tuple[float, float]]:
    return list(zip(xs, ys, strict=False))


def _accuracy(uri: str, curves: Mapping[str, Any], metrics: _Metrics) -> list[Chart]:
    name = next((name for name in _methods(curves) if "threshold" in curves[name]), "")
    method = curves.get(name, {})
    thresholds = _numbers(uri, method, "threshold")
    figures = metrics.get(name, {})
    marks = [
        Mark(value=figures[key], label=f"{text} {figures[key]:.2f}")
        for key, text in (("threshold", "chosen"), ("oracle_threshold", "oracle's"))
        if key in figures
    ]
    if "gt_known_loc" in metrics.get("centre", {}):
        best = metrics["centre"]["gt_known_loc"]
        marks.append(Mark(value=best, label=f"centred box {best:.1f}", is_vertical=False))
    made = []
    for key, text in (("max_box_acc", "largest contour"), ("max_box_acc_v2", "any contour")):
        found = [
            Series(
                name=f"IoU ≥ 0.{level[0]}",
                points=_pairs(thresholds, _numbers(uri, method, key, level)),
            )
            for level in _LEVELS
        ]
        found = [each for each in found if each.points]
        if found:
            made.append(
                Chart(
                    title=f"Box accuracy over thresholds, {text}",
                    description="Percentage of images whose box reaches an IoU, over the map's "
                    "threshold. Vertical lines mark the threshold that was chosen for "
                    "GT-known Loc; the horizontal one is the centred box at IoU 0.5.",
                    x_label="threshold, share of the map's maximum",
                    y_label="images localized, percent",
                    series=found,
                    marks=marks,
                    y_range=(0, 100),
                )
            )
    return made


def _precision(uri: str, curves: Mapping[str, Any], metrics: _Metrics) -> list[Chart]:
    found = []
    for name in _methods(curves):
        method, title = curves[name], _title(name)
        points = _pairs(_numbers(uri, method, "recall"), _numbers(uri, method, "precision"))
        area = metrics.get(name, {}).get("pxap")
        if points:
            text = title if area is None else f"{title}, PxAP {area:.1f}"
            found.append(Series(name=text, points=points))
    if not found:
        return []
    return [
        Chart(
            title="Pixel precision and recall",
            description="Precision of foreground pixels against their recall, over map "
            "thresholds from high (left) to low (right). The area below is PxAP.",
            x_label="recall, percent of foreground pixels",
            y_label="precision, percent",
            series=found,
            y_range=(0, 100),
        )
    ]
