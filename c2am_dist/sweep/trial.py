"""What a trial does: a distributed training run, watched and scored by its process.

The run and its trial share no channel but the run's folder, where checkpoints appear whole or not
at all: whoever looks there sees what a killed driver, too, would find.
"""

import dataclasses
import logging
import math
import os
import threading
import time
from typing import Any

import ray.train
from ray import tune

from c2am_dist import checkpoint, names, storage
from c2am_dist.config import TrainConfig, override
from c2am_dist.data import plan
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.score import Scorers
from c2am_dist.sweep.spec import Trial
from c2am_dist.training import Inputs, fit
from c2am_dist.training.inputs import num_steps
from c2am_dist.training.progress import rows_until

POLL_S = 0.5
"""Between two looks at the run."""
MAX_REASON = 500
"""Characters of a failure's reason that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What all trials of a sweep have in common, sent once."""

    trials: dict[str, Trial]
    inputs: dict[tuple[Any, ...], Inputs]
    """By `inputs_key`."""
    scorers: Scorers
    objective: str
    asha_grace: float | None
    """Share of the schedule between checkpoints to score; None: the end alone is scored."""
    earlier: dict[str, Record]
    """Trials of an earlier start that are over, for ASHA to compare others with."""


def inputs_key(config: TrainConfig) -> tuple[Any, ...]:
    """What two trials must agree on to share their inputs."""
    return (config.data.train, config.model.encoder, config.model.weights)


class TrialRun(tune.Trainable):
    """A trial: Ray Tune asks it for one result after another, and ends it where ASHA says so.

    When it is ended, its process is, and with it the controller and the workers of its run,
    which Ray ends with their owner. A process whose trial has come to its end takes the next one.
    """

    def setup(self, config: dict[str, Any], shared: Shared) -> None:  # type: ignore[override]
        # Its run is a matter of a minute, not of hours.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # as cli.init_ray does
        logging.getLogger().setLevel(logging.WARNING)
        self._shared = shared
        self._begin(config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial; without ASHA none is ended before its run is."""
        self._begin(new_config["trial"])
        return True

    def _begin(self, name: str) -> None:
        self._started = time.monotonic()
        self._history: list[list[float]] = []
        self._scored_step, self._failure = 0, ""
        self._earlier = self._shared.earlier.get(name)
        self._num_replayed = 0
        trial = self._shared.trials[name]
        self._run = storage.join(trial.config.run.storage, name)
        if self._earlier is None:
            self._thread = threading.Thread(target=self._fit, args=(trial,), daemon=True)
            self._thread.start()

    def _fit(self, trial: Trial) -> None:
        inputs = self._shared.inputs[inputs_key(trial.config)]
        try:
            row_groups = plan.limit(inputs.row_groups, trial.config.data.limit)
            total_steps = num_steps(trial.config, row_groups)[1]
            fit(tuned(trial.config, self._shared.asha_grace, total_steps), inputs)
        except Exception as error:  # whatever it is, other trials go on
            self._failure = reason_of(error)

    def step(self) -> dict[str, Any]:
        """The next result: of a new checkpoint, where ASHA wants one, or of the run's end."""
        if self._earlier is not None:
            return self._replayed(self._earlier)
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_S)
                if self._shared.asha_grace is not None and self._thread.is_alive():
                    if found := self._at_checkpoint():
                        return found
            return self._ending()
        except (ValueError, OSError) as error:  # of the scoring: training again would not help
            self._failure = reason_of(error)
            return self._ending()

    def _at_checkpoint(self) -> dict[str, Any] | None:
        step = checkpoint.latest_step(self._run)
        if step is None or step == self._scored_step:
            return None
        self._scored_step = step
        folder = checkpoint.step_folder(self._run, step)
        try:
            if step == checkpoint.read_manifest(folder)["total_steps"]:
                return None  # the end is near
            return self._result(self._scored("unfinished", folder), done=False)
        except FileNotFoundError:
            return None  # later ones took its place
        except ValueError:
            if step not in checkpoint.steps(self._run):
                return None  # likewise, and half of it was still there
            raise

    def _ending(self) -> dict[str, Any]:
        if not self._failure:
            folder = storage.join(self._run, "checkpoint")
            return self._result(self._scored("finished", folder), done=True)
        record = Record(
            status="failed",
            reason=self._failure,
            steps=checkpoint.latest_step(self._run) or 0,
            seconds=self._elapsed_s(),
            history=self._history,
        )
        return self._result(record, done=True)

    def _scored(self, status: str, folder: str) -> Record:
        manifest = checkpoint.read_manifest(folder)
        loss = loss_at(self._run, manifest["step"])
        figures = {"loss": loss, **self._shared.scorers.score(folder)}
        if self._shared.objective not in figures:
            raise ValueError("none of the images to score has an annotated box")
        percent = 100 * manifest["step"] / manifest["total_steps"]
        self._history.append([percent, figures[self._shared.objective]])
        return Record(
            status=status,
            figures=figures,
            steps=manifest["step"],
            seconds=self._elapsed_s(),
            checkpoint=folder,
            history=self._history,
        )

    def _elapsed_s(self) -> float:
        return round(time.monotonic() - self._started, 2)

    def _replayed(self, record: Record) -> dict[str, Any]:
        """What a trial that is over has reported in its time, one result after another."""
        self._num_replayed += 1
        is_last = self._num_replayed >= len(record.history)
        seen = record.history[: self._num_replayed]
        return self._result(record, done=is_last, history=seen)

    def _result(
        self, record: Record, *, done: bool, history: list[list[float]] | None = None
    ) -> dict[str, Any]:
        """What Ray Tune is told: where the trial is, its objective there, and its record."""
        told: dict[str, Any] = {"record": dataclasses.asdict(record), "done": done}
        seen = record.history if history is None else history
        if seen and not (done and record.status == "failed"):
            told["percent"], told[self._shared.objective] = seen[-1]
        return told


def tuned(config: TrainConfig, asha_grace: float | None, total_steps: int) -> TrainConfig:
    """The config with checkpoints for ASHA, which change no result.

    Each is preceded by a row of metrics, since its loss is a figure.
    """
    if asha_grace is None:
        return config
    first_rung = max(1, math.floor(total_steps * asha_grace))
    every = min(first_rung, config.run.checkpoint_every)
    log_every = min(every, config.run.log_every)
    return override(config, {"run.checkpoint_every": every, "run.log_every": log_every})


def loss_at(run: str, step: int) -> float:
    """The loss of the run's last row of metrics up to a step.

    Raises:
        ValueError: there is none.
    """
    uri = storage.join(run, "metrics.jsonl")
    rows = rows_until(uri, step)
    if not rows:
        raise ValueError(f"{uri}: no row up to step {step}")
    return rows[-1]["loss"]


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line: the first worker's own error where workers failed."""
    if isinstance(error, ray.train.WorkerGroupError) and error.worker_failures:
        error = next(iter(error.worker_failures.values()))
    elif isinstance(error, ray.train.ControllerError):
        error = error.controller_failure
    cause = getattr(error, "cause", None) or error
    return names.printable(f"{type(cause).__name__}: {cause}".strip())[:MAX_REASON]
