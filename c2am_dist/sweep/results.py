"""What a sweep leaves: a record a trial, and from them tables, the best checkpoint, correlations.

``trials/TRIAL/trial.json`` is written when a trial is over; everything else follows from those
and the plan, and is written anew each time.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from c2am_dist import storage
from c2am_dist.sweep.spec import LABEL_FREE, SweepConfig, Trial, command

FIGURES = (
    "gt_known_loc", "max_box_acc_v2", "oracle_gt_known_loc", "oracle_max_box_acc_v2",
    "centre_gt_known_loc", "centre_max_box_acc_v2", *LABEL_FREE,
)  # fmt: skip
"""Columns of every table; null where there are no annotations, or the trial did not get there."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """How a trial went."""

    status: str
    """``finished``, ``stopped`` (by ASHA), ``failed``; ``unfinished`` while it runs."""
    reason: str = ""
    """Why it was stopped or failed."""
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of its last checkpoint that was scored; see `FIGURES`."""
    steps: int = 0
    seconds: float = 0.0
    """From its start, or its last resumption, to its end: start-up, training and scoring."""
    checkpoint: str = ""
    """URI of the checkpoint that was scored."""
    history: list[list[float]] = dataclasses.field(default_factory=list)
    """Percent of the schedule and the objective, at every scoring."""


def record_uri(folder: str, trial: Trial) -> str:
    return storage.join(folder, "trials", trial.name, "trial.json")


def read_records(folder: str, trials: Sequence[Trial]) -> dict[str, Record]:
    """The records of the trials that are over, by name.

    Raises:
        ValueError: one is no record; names the file.
    """
    with ThreadPoolExecutor(16) as pool:  # mostly latency, over a network
        found = pool.map(lambda trial: _read(record_uri(folder, trial)), trials)
        return {t.name: record for t, record in zip(trials, found, strict=True) if record}


def _read(uri: str) -> Record | None:
    if not storage.exists(uri):
        return None
    try:
        return Record(**storage.read_json(uri))
    except TypeError as error:
        raise ValueError(f"{uri}: not the record of a trial ({error})") from error


def write_record(folder: str, trial: Trial, record: Record) -> None:
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    storage.write_bytes(record_uri(folder, trial), text.encode())


def table(trials: Sequence[Trial], records: Mapping[str, Record], sweep: SweepConfig) -> pa.Table:
    """A row a trial, in the plan's order; the columns are in docs/data.md."""
    objective = sweep.chosen_objective
    paths = list(trials[0].values)
    rows = []
    for trial in trials:
        record = records.get(trial.name, Record(status="unfinished"))
        rows.append(
            {
                "trial": trial.name,
                "status": record.status,
                "reason": record.reason or None,
                **{path: _cell(value) for path, value in trial.values.items()},
                "seed": trial.seed,
                "objective": objective,
                "value": record.figures.get(objective),
                **{name: record.figures.get(name) for name in FIGURES},
                "steps": record.steps,
                "seconds": record.seconds,
                "checkpoint": record.checkpoint or None,
                "command": command(trial),
            }
        )
    fixed = {"trial": pa.string(), "status": pa.string(), "reason": pa.string()}
    fixed |= {path: pa.array([row[path] for row in rows]).type for path in paths}
    fixed |= {"seed": pa.int64(), "objective": pa.string(), "value": pa.float64()}
    fixed |= {name: pa.float64() for name in FIGURES}
    fixed |= {"steps": pa.int64(), "seconds": pa.float64()}
    fixed |= {"checkpoint": pa.string(), "command": pa.string()}
    metadata = {
        "c2am_dist.swept": json.dumps(paths),
        "c2am_dist.objective": objective,
        "c2am_dist.mode": sweep.mode,
    }
    return pa.Table.from_pylist(rows, pa.schema(list(fixed.items()), metadata=metadata))


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def points(trials: pa.Table) -> pa.Table:
    """A row a point: the objective's mean and sample deviation over its finished trials."""
    paths = json.loads(trials.schema.metadata[b"c2am_dist.swept"])
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in trials.to_pylist():
        values = found.setdefault(tuple(row[path] for path in paths), [])
        if row["status"] == "finished" and row["value"] is not None:
            values.append(row["value"])
    rows = [
        {
            **dict(zip(paths, point, strict=True)),
            "num_seeds": len(values),
            "mean": float(np.mean(values)) if values else None,
            "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for point, values in found.items()
    ]
    kinds = [(path, trials.schema.field(path).type) for path in paths]
    kinds += [("num_seeds", pa.int64()), ("mean", pa.float64()), ("spread", pa.float64())]
    return pa.Table.from_pylist(rows, pa.schema(kinds, metadata=trials.schema.metadata))


def best(trials: pa.Table) -> dict[str, Any] | None:
    """The finished trial with the best objective, or None before there is one.

    One of many trials is best partly by chance: the mean and spread of its point's seeds say how
    much.
    """
    is_min = trials.schema.metadata[b"c2am_dist.mode"] == b"min"
    paths = json.loads(trials.schema.metadata[b"c2am_dist.swept"])
    done = [
        row
        for row in trials.to_pylist()
        if row["status"] == "finished" and row["value"] is not None
    ]
    if not done:
        return None
    row = (min if is_min else max)(done, key=lambda row: row["value"])
    names = ("trial", "checkpoint", "objective", "value", *paths, "seed", "command")
    found = {name: row[name] for name in names}
    (point,) = (
        point
        for point in points(trials).to_pylist()
        if all(point[path] == row[path] for path in paths)
    )
    return found | {f"point_{name}": point[name] for name in ("num_seeds", "mean", "spread")}


def rank_correlation(trials: pa.Table, one: str, other: str) -> float | None:
    """Spearman's rank correlation of two columns over the finished trials that have both.

    None for fewer than three of them, or a column of equals. Equal values share their mean rank.
    """
    finished = trials.filter(pc.field("status") == "finished").select([one, other])
    both = finished.drop_null()
    ranks = [_mean_rank(both[name]) for name in (one, other)]
    if len(both) < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _mean_rank(values: pa.ChunkedArray) -> np.ndarray:
    low, high = (
        pc.rank(values, tiebreaker=rule).to_numpy()  # type: ignore
        for rule in ("min", "max")
    )
    return (low + high) / 2


def write(folder: str, trials: pa.Table) -> None:
    """Writes both tables and ``best.json`` into a sweep's folder."""
    buffer = pa.BufferOutputStream()
    pq.write_table(trials, buffer, compression="zstd")
    storage.write_bytes(storage.join(folder, "results.parquet"), buffer.getvalue().to_pybytes())
    for name, rows in {"results.csv": trials, "points.csv": points(trials)}.items():
        buffer = pa.BufferOutputStream()
        pyarrow.csv.write_csv(rows, buffer)
        storage.write_bytes(storage.join(folder, name), buffer.getvalue().to_pybytes())
    text = json.dumps(best(trials), indent=2) + "\n"
    storage.write_bytes(storage.join(folder, "best.json"), text.encode())
