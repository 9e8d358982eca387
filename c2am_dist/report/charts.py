"""Charts as geometry: places, paths and texts that the page's template draws as inline SVG.

A chart of this kind is a few lines on two axes. The page gives them colours that follow its
light or dark theme, and everything that is drawn is there as a table, too.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

WIDTH, HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 14, 54
_MAX_POINTS, _MAX_TABLE_ROWS = 1000, 40
NUM_STYLES = 6
"""Colours, dashes and marker shapes that the page knows; series beyond them begin anew."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points that belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    """x and y; those that are not finite are left out, and break a line."""
    kind: Literal["line", "dots", "steps"] = "line"
    """Steps are a histogram: x is a bin's left edge, and the last bin is as wide as the first."""
    spread: Sequence[float] = ()
    """Half the length of an error bar at each point; no bars if empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A dashed line across the chart."""

    value: float
    label: str
    is_vertical: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    title: str
    description: str
    """What there is to see, for those who cannot."""
    x_label: str
    """With its unit, where it has one; so the other."""
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    categories: Sequence[str] = ()
    """Names of the places 0, 1, … on the x axis, where these are no numbers."""
    is_x_log: bool = False
    y_range: tuple[float, float] | None = None
    """From the points if not given."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, in the SVG's units."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return round(self.start_px + share * (self.end_px - self.start_px), 2)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def ticks(self) -> list[float]:
        """Round numbers within the axis: three to nine, or the powers of ten."""
        if self.is_log:
            first, last = math.ceil(self._scaled(self.low)), math.floor(self._scaled(self.high))
            powers = [10.0**exponent for exponent in range(first, last + 1)]
            return powers if len(powers) > 1 else [self.low, self.high]
        rough = (self.high - self.low) / 8
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor((self.high / step - first) + 1e-9) + 1
        return [(first + i) * step for i in range(count)]


def draw(chart: Chart) -> dict[str, Any]:
    """What ``page/chart.html`` needs: texts, and places in an SVG of WIDTH x HEIGHT.

    Raises:
        ValueError: there is no finite point to draw.
    """
    x_axis, y_axis = _axes(chart)
    x_ticks = list(enumerate(chart.categories)) or [(x, number(x)) for x in x_axis.ticks()]
    return {
        "chart": chart,
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "x_ticks": [(x_axis.place(x), text) for x, text in x_ticks],
        "y_ticks": [(y_axis.place(y), number(y)) for y in y_axis.ticks()],
        "series": [_drawn(each, i, x_axis, y_axis) for i, each in enumerate(chart.series)],
        "marks": [_mark(mark, x_axis, y_axis) for mark in chart.marks],
        "table": table(chart),
    }


def _axes(chart: Chart) -> tuple[_Axis, _Axis]:
    points = [point for each in chart.series for point in _finite(each)]
    if not points:
        raise ValueError(f"chart {chart.title!r}: no finite point")
    xs, ys = [x for x, _, _ in points], [y + d for _, y, by in points for d in (-by, by)]
    xs += [mark.value for mark in chart.marks if mark.is_vertical]
    ys += [mark.value for mark in chart.marks if not mark.is_vertical]
    xs += [_last_edge(each) for each in chart.series if each.kind == "steps"]
    if chart.categories:
        xs = [-0.5, len(chart.categories) - 0.5]
    low, high = chart.y_range or _room(min(ys), max(ys))
    x_low, x_high = _room(min(xs), max(xs)) if min(xs) == max(xs) else (min(xs), max(xs))
    return (
        _Axis(x_low, x_high, _LEFT, WIDTH - _RIGHT, chart.is_x_log),
        _Axis(low, high, HEIGHT - _BOTTOM, _TOP),
    )


def _room(low: float, high: float) -> tuple[float, float]:
    """A range with a little space beyond the values at its ends, which may be equal."""
    space = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < high and low <= space else low - space), high + space


def _finite(series: Series) -> list[tuple[float, float, float]]:
    """The finite points with their spread, 0 where there is none."""
    spread = series.spread or [0.0] * len(series.points)
    return [
        (x, y, by if math.isfinite(by) else 0.0)
        for (x, y), by in zip(series.points, spread, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]


def _drawn(series: Series, index: int, x_axis: _Axis, y_axis: _Axis) -> dict[str, Any]:
    points = _finite(series)
    path = {"line": _line, "steps": _steps, "dots": lambda *_: ""}[series.kind]
    is_few = len(points) <= 40
    bars = [(x, y - by, y + by) for x, y, by in points if by]
    return {
        "name": series.name,
        "style": index % NUM_STYLES,
        "kind": series.kind,
        "path": path(series, x_axis.place, y_axis.place),
        "dots": [(x_axis.place(x), y_axis.place(y)) for x, y, _ in points]
        if series.kind == "dots" or (series.kind == "line" and is_few)
        else [],
        "bars": [(x_axis.place(x), y_axis.place(a), y_axis.place(b)) for x, a, b in bars],
    }


Place = Callable[[float], float]


def _line(series: Series, x_of: Place, y_of: Place) -> str:
    every = -(-len(series.points) // _MAX_POINTS) or 1
    parts, is_open = [], False
    for x, y in series.points[::every]:
        is_finite = math.isfinite(x) and math.isfinite(y)
        if is_finite:
            parts.append(f"{'L' if is_open else 'M'}{x_of(x)} {y_of(y)}")
        is_open = is_finite
    return "".join(parts)


def _steps(series: Series, x_of: Place, y_of: Place) -> str:
    edges = [*[x for x, _ in series.points][1:], _last_edge(series)]
    parts = [f"M{x_of(series.points[0][0])} {y_of(0)}"]
    for (_, y), edge in zip(series.points, edges, strict=True):
        parts.append(f"V{y_of(y)}H{x_of(edge)}")
    return "".join([*parts, f"V{y_of(0)}"])


def _last_edge(series: Series) -> float:
    xs = [x for x, _ in series.points]
    return xs[-1] + (xs[1] - xs[0] if len(xs) > 1 else 1.0)


def _mark(mark: Mark, x_axis: _Axis, y_axis: _Axis) -> dict[str, Any]:
    at = x_axis.place(mark.value) if mark.is_vertical else y_axis.place(mark.value)
    is_right = mark.is_vertical and at > (_LEFT + WIDTH - _RIGHT) / 2
    return {"at": at, "label": mark.label, "is_vertical": mark.is_vertical, "is_right": is_right}


def table(chart: Chart) -> dict[str, Any]:
    """The chart's points as a table: a row a place on the x axis, a column a series.

    Long ones are thinned to some forty rows; ``every`` says how much.
    """
    places: dict[float, list[list[str]]] = {}
    for column, each in enumerate(chart.series):
        for x, y, by in _finite(each):
            cells = places.setdefault(x, [[] for _ in chart.series])
            cells[column].append(f"{number(y)} ± {number(by)}" if by else number(y))
    every = -(-len(places) // _MAX_TABLE_ROWS) or 1
    rows = [
        [
            chart.categories[int(x)] if chart.categories else number(x),
            *(", ".join(cell) or "–" for cell in places[x]),
        ]
        for x in sorted(places)[::every]
    ]
    return {"head": [chart.x_label, *(s.name for s in chart.series)], "rows": rows, "every": every}


def number(value: float) -> str:
    """A number as a person reads it: four digits, thousands apart."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"
