"""The hook for experiment trackers: what it is given, and that nothing it does ends training."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from c2am_dist.config import RunConfig, TrainConfig, override
from c2am_dist.training import fit, tracking
from c2am_dist.training.loop import Job
from c2am_dist.training.progress import RunLog
from c2am_dist.training.tracking import TrackedRun

ROWS = [
    {"step": step, "loss": 1 / step, "images_per_s": 100.0, "data_wait_fraction": 0.5}
    for step in (10, 20, 30)
]
SEEN: list[Any] = []
"""What the hooks below were given; they run in this process."""


@contextlib.contextmanager
def good_hook(run: TrackedRun) -> Iterator[Any]:
    SEEN.append(run)
    yield SEEN.append
    SEEN.append("closed")


def hook_that_cannot_start(run: TrackedRun) -> Any:
    raise ConnectionError("POST https://me:hunter2@mlflow.example/api failed")


@contextlib.contextmanager
def hook_that_fails_at_a_row(run: TrackedRun) -> Iterator[Any]:
    def log(row: tracking.Row) -> None:
        SEEN.append(row)
        raise SystemExit("no quota left\x1b[2J")

    yield log


@contextlib.contextmanager
def hook_that_fails_at_the_end(run: TrackedRun) -> Iterator[Any]:
    yield SEEN.append
    raise RuntimeError("cannot finish")


@contextlib.contextmanager
def hook_that_hangs(run: TrackedRun) -> Iterator[Any]:
    yield lambda row: threading.Event().wait()


@pytest.fixture(autouse=True)
def _empty() -> None:
    SEEN.clear()


def log_rows(folder: Path, tracker: str, rows: list[dict[str, Any]], start_step: int = 0) -> None:
    """What the first worker does with the rows of a run."""
    config = override(TrainConfig(), {"run.name": "r", "run.tracker": tracker})
    job = Job(
        config=config,
        run=str(folder / "r"),
        row_groups=[],
        classes=[],
        steps_per_epoch=30,
        total_steps=30,
        encoder_weights=None,  # type: ignore
        weights_sha256="",
        boxes=None,  # type: ignore
        boxes_sha256="",
        cues=None,  # type: ignore
        cues_sha256="",
    )
    log = RunLog(job, start_step)
    try:
        for row in rows:
            log.write(row)
    finally:
        log.close()


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "r/metrics.jsonl").read_text().splitlines()]


def test_a_hook_gets_the_run_and_every_row_in_order(tmp_path: Path):
    log_rows(tmp_path, "tests.test_tracking:good_hook", ROWS)
    run, *rows, end = SEEN
    assert rows == ROWS == kept(tmp_path)
    assert end == "closed"
    assert (run.name, run.uri) == ("r", str(tmp_path / "r"))
    assert run.config["optim.batch_size"] == 256
    assert run.config["run.tracker"] == "tests.test_tracking:good_hook"


def test_the_key_is_that_of_the_run(tmp_path: Path):
    for name in ("a", "a", "b"):
        log_rows(tmp_path / name, "tests.test_tracking:good_hook", [])
    first, again, other = (run.key for run in SEEN if isinstance(run, TrackedRun))
    assert first == again != other


@pytest.mark.parametrize(
    ("hook", "warning"),
    [
        ("hook_that_cannot_start", "ConnectionError: POST https://mlflow.example/api failed"),
        ("hook_that_fails_at_a_row", "SystemExit: no quota left\\x1b[2J"),
        ("hook_that_fails_at_the_end", "RuntimeError: cannot finish"),
        ("no_such_hook", "ValueError: run.tracker: tests.test_tracking:no_such_hook"),
    ],
)
def test_a_failing_tracker_is_told_of_and_the_record_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hook: str, warning: str
):
    log_rows(tmp_path, f"tests.test_tracking:{hook}", ROWS)
    assert kept(tmp_path) == ROWS
    (record,) = [r for r in caplog.records if r.name == "c2am_dist.training.tracking"]
    assert record.levelno == logging.WARNING
    assert warning in record.getMessage()
    assert "hunter2" not in caplog.text


def test_nobody_waits_for_a_tracker_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracking, "CLOSE_S", 0.2)
    started = time.monotonic()
    log_rows(tmp_path, "tests.test_tracking:hook_that_hangs", ROWS)
    assert time.monotonic() - started < 5
    assert kept(tmp_path) == ROWS
    assert "has not taken all rows within 0.2 s" in caplog.text


@pytest.mark.parametrize("tracker", ["mlfow", "a b:c", "module:", ":f", "module:f()"])
def test_what_names_no_tracker_is_refused(tracker: str):
    with pytest.raises(ValueError, match=r"run\.tracker must be mlflow, wandb or module:function"):
        RunConfig(tracker=tracker)


@pytest.mark.parametrize("tracker", ["tests.no_such_module:f", "tests.test_tracking:nothing"])
def test_a_hook_that_is_not_there_is_named_before_training_begins(tmp_path: Path, tracker: str):
    values = {"data.train": ("x",), "model.weights": "none", "run.name": "r"}
    values |= {"run.tracker": tracker, "run.storage": str(tmp_path)}
    with pytest.raises(ValueError, match=rf"run\.tracker: {tracker}: "):
        fit(override(TrainConfig(), values))


def test_mlflow_keeps_a_run_and_its_resumption_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs all of mlflow
    log_rows(tmp_path, "mlflow", ROWS[:2])
    log_rows(tmp_path, "mlflow", ROWS[2:], start_step=20)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("c2am-dist")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "r"
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.alpha"] == "0.05"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [
        (r["step"], r["loss"]) for r in ROWS
    ]


def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_rows(tmp_path, "wandb", ROWS)
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = record.read_bytes()
    assert b"images_per_s" in data and b"optim.batch_size" in data
