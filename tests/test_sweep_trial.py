"""What a trial's process decides by itself: its run's config, its reasons. No Ray is started."""

import contextlib
import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from c2am_dist import checkpoint
from c2am_dist.config import TrainConfig, override
from c2am_dist.data.shards import RowGroup
from c2am_dist.sweep.spec import SweepConfig, plan
from c2am_dist.sweep.trial import Shared, TrialRun, loss_at, reason_of, tuned
from c2am_dist.training import Inputs
from c2am_dist.training.failures import NoRepetition, TrainingStopped

BASE = override(
    TrainConfig(),
    {"data.train": ("x",), "model.weights": "none", "run.name": "s", "optim.max_steps": 100},
)
NOTHING: Any = None  # what no test here reaches


def _shared(base: TrainConfig) -> Shared:
    trials = plan(SweepConfig(sweep=("loss.alpha=0",), seeds=1), base)
    inputs = Inputs(
        row_groups=[RowGroup("x", 0, 10_000)],
        encoder_weights=NOTHING,
        has_weights=False,
        weights_sha256="",
        boxes=NOTHING,
        cues=NOTHING,
    )
    return Shared(
        trials={trial.name: trial for trial in trials},
        inputs={(("x",), "resnet50", "none"): inputs},
        scorers=NOTHING,
        objective="loss",
        asha_grace=0.25,
        earlier={},
    )


@pytest.mark.parametrize(
    ("grace", "checkpoint_every", "log_every", "expected"),
    [
        (0.25, 500, 10, (25, 10)),
        (0.25, 500, 1000, (25, 25)),  # else the first rung would come before the first row
        (0.25, 7, 10, (7, 7)),
        (0.001, 500, 10, (1, 1)),
        (None, 500, 1000, (500, 1000)),
    ],
)
def test_under_asha_a_row_of_metrics_comes_with_the_first_checkpoint(
    grace: float | None, checkpoint_every: int, log_every: int, expected: tuple[int, int]
):
    changes = {"run.checkpoint_every": checkpoint_every, "run.log_every": log_every}
    config = tuned(override(BASE, changes), grace, total_steps=100)
    assert (config.run.checkpoint_every, config.run.log_every) == expected


def test_the_loss_of_a_checkpoint_is_that_of_the_last_row_before_it(tmp_path: Path):
    rows = [{"step": step, "loss": step / 10} for step in (5, 10, 15)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 20, "lo')  # being written
    run = str(tmp_path)
    assert [loss_at(run, step) for step in (5, 12, 20)] == [0.5, 1.0, 1.5]
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no row up to step 4"):
        loss_at(run, 4)


class HeldBack(list[RowGroup]):
    """Images of a run that waits for them, so that it is at work until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def __iter__(self) -> Iterator[RowGroup]:
        self.let_go.wait(60)
        return super().__iter__()


@contextlib.contextmanager
def _running(tmp_path: Path, scorers: Any = NOTHING) -> Iterator[tuple[TrialRun, Path]]:
    """A trial whose run is at work until the block ends; and the checkpoint of step 25 of it."""
    shared = _shared(override(BASE, {"run.storage": str(tmp_path)}))
    ((key, inputs),) = shared.inputs.items()
    images = HeldBack()
    inputs = {key: dataclasses.replace(inputs, row_groups=images)}
    (name,) = shared.trials
    folder = tmp_path / "s" / "trials" / name / "checkpoints" / "step-00000025"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": 1, "step": 25, "total_steps": 100}')
    trial = TrialRun.__new__(TrialRun)  # Ray's own __init__ wants a cluster's node
    trial.setup({"trial": name}, dataclasses.replace(shared, inputs=inputs, scorers=scorers))
    try:
        yield trial, folder
        assert trial._thread.is_alive(), "the run was over: this shows nothing"
    finally:
        images.let_go.set()
        trial._thread.join(60)


@pytest.mark.parametrize(
    ("manifest", "reason"), [(None, "no row up to step 25"), ('{"format": 1, "st', "not JSON")]
)
def test_a_checkpoint_that_cannot_be_scored_ends_its_trial_as_failed(
    tmp_path: Path, manifest: str | None, reason: str
):
    with _running(tmp_path) as (trial, folder):
        if manifest is not None:
            (folder / "manifest.json").write_text(manifest)
        result = trial.step()
    assert result["done"] and result["record"]["status"] == "failed"
    assert reason in result["record"]["reason"] and result["record"]["steps"] == 25


class Late:
    """Scores a checkpoint of which pruning has left a half."""

    def score(self, uri: str) -> dict[str, float]:
        Path(uri, "manifest.json").unlink()
        Path(uri, "checkpoint.pt").touch()
        checkpoint.load(uri)
        raise AssertionError("it was loaded")


def test_a_checkpoint_that_goes_while_it_is_scored_fails_no_trial(tmp_path: Path):
    with _running(tmp_path, Late()) as (trial, folder):
        (folder.parents[1] / "metrics.jsonl").write_text('{"step": 25, "loss": 1.0}\n')
        assert trial._at_checkpoint() is None
        assert not (folder / "manifest.json").exists(), "it was never to be scored"


def _cpu_out_of_memory() -> RuntimeError:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**50)
    return found.value


@pytest.fixture
def logging_comes_back() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("logging_comes_back")
@pytest.mark.parametrize("make", [lambda: torch.OutOfMemoryError("2 GiB"), _cpu_out_of_memory])
def test_a_run_out_of_memory_ends_at_once_and_says_what_to_change(make: Any):
    error = make()
    with pytest.raises(TrainingStopped, match=r"out of memory.*optim\.batch_size.*accumulation"):
        NoRepetition().after_exception(NOTHING, {0: ConnectionError("peer"), 1: error})


@pytest.mark.usefixtures("logging_comes_back")
def test_a_bad_value_ends_a_run_and_a_lost_worker_does_not():
    callback = NoRepetition()
    lost = {0: RuntimeError("NCCL"), 1: ConnectionResetError("peer"), 2: TimeoutError()}
    callback.after_exception(NOTHING, lost)
    for error in (ValueError("lr"), OSError(28, "No space left on device")):
        with pytest.raises(type(error)) as found:
            callback.after_exception(NOTHING, {0: error})
        assert found.value is error


def test_a_reason_is_the_workers_own_error_in_one_line():
    error = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    group = ray.train.WorkerGroupError("trace", {0: error})
    assert reason_of(group).startswith("OutOfMemoryError: CUDA out of memory.")
    assert "\n" not in reason_of(group)
    controller = ray.train.ControllerError(TrainingStopped("out of memory"))
    assert reason_of(controller) == "TrainingStopped: out of memory"
