"""A sweep's trials: what was swept against what came out, and every trial in a table."""

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import storage
from c2am_dist.data import shards
from c2am_dist.report.charts import Chart, Series, number
from c2am_dist.report.page import Section, Table, Text, json_lines

_OUTCOMES = ("value", "gt_known_loc", "max_box_acc_v2")
_MAX_SERIES = 6
"""More values of a second swept field than these would not be told apart in one chart."""
Trial = dict[str, Any]


def section(uri: str) -> Section:
    """The charts and tables of a sweep.

    Args:
        uri: its folder, with ``results.parquet`` and, where there is one, ``sweep.json``.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: they are no table of trials; names the file.
    """
    trials = _read(storage.join(uri, "results.parquet"))
    about_uri = storage.join(uri, "sweep.json")
    about = storage.read_json(about_uri) if storage.exists(about_uri) else {}
    swept = _swept(trials)
    # What ASHA stopped trained less: means with it would say nothing.
    good = [t for t in trials if t["status"] == "finished" and _is_finite(t.get("value"))]
    line = about.pop("command", None)
    texts = [Text("Command of the sweep", [_shell(line)])] if line else []
    texts += [Text("sweep.json", json_lines(about))] if about else []
    commands = [f"{t['trial']}: {t['command']}" for t in trials if t.get("command")]
    texts += [Text("Command of each trial", commands)] if commands else []
    charts = [
        _chart(good, path, [other for other in swept if other != path], outcome)
        for path in swept
        for outcome in _outcomes(good)
    ]
    return Section(
        id="sweep",
        title="Sweep",
        notes=[f"{len(trials)} trials over {', '.join(swept) or 'nothing'}.", *_lost(trials)],
        tables=[*_summaries(good, swept), _table(trials)],
        charts=charts if good else [],
        texts=texts,
    )


def _lost(trials: Sequence[Trial]) -> list[str]:
    """How many trials are not in the charts, and why."""
    how = {"stopped": "stopped early", "failed": "failed", "unfinished": "unfinished"}
    counts = Counter(trial["status"] for trial in trials)
    told = [f"{counts[status]} {text}" for status, text in how.items() if counts[status]]
    if not told:
        return []
    return [f"{', '.join(told)}: in the table of trials, and in no chart or mean."]


def _shell(words: object) -> str:
    """A command line as it would be typed; one that is no list of words, as it is."""
    return shlex.join(map(str, words)) if isinstance(words, list) else str(words)


def _read(uri: str) -> list[Trial]:
    """The columns of plain types, which alone become Python objects.

    A column of another type may be one of Ray Data's that unpickles its values.
    """
    kinds = shards.read_schema(uri)
    plain = [f.name for f in kinds if _is_plain(f.type) and kinds.names.count(f.name) == 1]
    for name in ("trial", "status"):
        if name not in plain or not _is_text(kinds.field(name).type):
            raise ValueError(f"{uri}: column {name!r} is missing, or no text")
    table = _table_of(uri, plain)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri}: {error}") from error
    return table.to_pylist()


@storage.retrying
def _table_of(uri: str, columns: list[str]) -> pa.Table:
    with storage.open_input(uri) as source:
        return pq.read_table(source, columns=columns)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_plain(kind: pa.DataType) -> bool:
    tests = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _swept(trials: Sequence[Trial]) -> list[str]:
    """The config's fields, told by the dot in their path, of which trials differ."""
    names = [name for name in (trials[0] if trials else {}) if "." in name]
    return [name for name in names if len({str(trial[name]) for trial in trials}) > 1]


def _outcomes(trials: Sequence[Trial]) -> list[str]:
    """The objective, and what else there is to plot that is not the objective itself."""
    objectives = {trial.get("objective") for trial in trials}
    return [
        name
        for name in _OUTCOMES
        if name not in objectives and any(_is_finite(trial.get(name)) for trial in trials)
    ]


def _title(outcome: str, trials: Sequence[Trial]) -> str:
    objectives = sorted({str(t["objective"]) for t in trials if t.get("objective")})
    name = ", ".join(objectives) if outcome == "value" and objectives else outcome
    return {"gt_known_loc": "GT-known Loc, percent", "max_box_acc_v2": "MaxBoxAccV2, percent"}.get(
        name, name
    )


def _chart(trials: Sequence[Trial], path: str, others: list[str], outcome: str) -> Chart:
    """An outcome over one swept field: a dot a trial, and lines through the means.

    A second swept field makes a line of each of its values, where they are few.
    """
    has_numbers = all(_is_finite(trial[path]) for trial in trials)
    values = {trial[path] for trial in trials}
    ordered = sorted(values, key=None if has_numbers else str)
    places = {v: float(v) if has_numbers else float(i) for i, v in enumerate(ordered)}
    by = others[0] if len(others) == 1 and len({t[others[0]] for t in trials}) <= 6 else None
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[f"{by} {_text(trial[by])}" if by else "mean and spread"].append(trial)
    series = []
    for name in sorted(groups)[:_MAX_SERIES]:
        series.append(_means(groups[name], path, outcome, places, name))
    if by is None:
        dots = [(places[t[path]], t[outcome]) for t in trials if _is_finite(t[outcome])]
        series.append(Series(name="trials", points=dots, kind="dots"))
    title = _title(outcome, trials)
    low, high = min(places.values()), max(places.values())
    return Chart(
        title=f"{title.partition(',')[0]} over {path}",
        description=f"{title} of each trial over {path}: the mean over seeds, with bars of one "
        "standard deviation where there are several.",
        x_label=path,
        y_label=title,
        series=series,
        categories=() if has_numbers else [_text(v) for v in ordered],
        is_x_log=has_numbers and low > 0 and high / low >= 50,
    )


def _means(
    trials: Sequence[Trial], path: str, outcome: str, places: dict[Any, float], name: str
) -> Series:
    found: dict[float, list[float]] = defaultdict(list)
    for trial in trials:
        if _is_finite(trial[outcome]):
            found[places[trial[path]]].append(trial[outcome])
    xs = sorted(found)
    return Series(
        name=name,
        points=[(x, float(np.mean(found[x]))) for x in xs],
        spread=[_deviation(found[x]) for x in xs],
    )


def _deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _summaries(trials: Sequence[Trial], swept: list[str]) -> list[Table]:
    """Mean and spread of each outcome at every point of the sweep."""
    outcomes = _outcomes(trials)
    points: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: [_sortable(t[name]) for name in swept]):
        points[tuple(_text(trial[name]) for name in swept)].append(trial)
    rows = []
    for point, found in points.items():
        cells = []
        for outcome in outcomes:
            values = [t[outcome] for t in found if _is_finite(t[outcome])]
            mean = f"{np.mean(values):.4g}" if values else "–"
            cells.append(f"{mean} ± {_deviation(values):.2g}" if len(values) > 1 else mean)
        rows.append([*point, str(len(found)), *cells])
    head = [*swept, "trials", *(_title(outcome, trials) for outcome in outcomes)]
    return [Table("Mean and standard deviation over trials", head, rows)] if rows and swept else []


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_finite(value) else (1, 0.0, str(value))


def _table(trials: Sequence[Trial]) -> Table:
    names = [name for name in (trials[0] if trials else {}) if name not in ("command",)]
    rows = [[_text(trial[name]) for name in names] for trial in trials]
    return Table("Trials", names, rows)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return number(value) if _is_finite(value) else str(value)
