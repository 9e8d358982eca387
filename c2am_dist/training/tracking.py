"""Metric rows to an experiment tracker, through one optional hook (``run.tracker``).

A hook is a function from a `TrackedRun` to a context manager whose value takes metric rows::

    @contextlib.contextmanager
    def to_my_tracker(run):
        with my_tracker.start(run.name, run.config) as session:
            yield lambda row: session.log(row["step"], row)

The first worker calls it in a thread of its own: a tracker that fails or hangs is told of and left
alone, and training never waits for it. TensorBoard needs no hook.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from c2am_dist import names

logger = logging.getLogger(__name__)

Row = Mapping[str, float]
CLOSE_S = 30.0
"""How long the end of training waits for rows that the tracker has not taken yet."""
_PROJECT = "c2am-dist"
_MLFLOW_TAG = "c2am_dist.run"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")  # trackers quote addresses in their errors


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What a hook is told of the run."""

    name: str
    uri: str
    """The run's folder."""
    config: dict[str, Any]
    """The resolved TrainConfig by dotted path. There are no credentials in it."""

    @property
    def key(self) -> str:
        """The same 16 hexadecimal digits whenever this run is begun or resumed."""
        return hashlib.blake2b(self.uri.encode(), digest_size=8).hexdigest()


Hook = Callable[[TrackedRun], AbstractContextManager[Callable[[Row], object]]]


@contextlib.contextmanager
def _mlflow(run: TrackedRun) -> Iterator[Callable[[Row], object]]:
    """A run of MLflow, continued when training is resumed.

    MLFLOW_TRACKING_URI says where; MLFLOW_EXPERIMENT_NAME is ``c2am-dist`` if unset.
    """
    import mlflow  # type: ignore

    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT)
    found = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id], f"tags.`{_MLFLOW_TAG}` = '{run.key}'", max_results=1
    )
    known = found[0].info.run_id if found else None
    with mlflow.start_run(run_id=known, run_name=run.name, tags={_MLFLOW_TAG: run.key}):
        if known is None:  # it refuses to change a parameter
            mlflow.log_params({name: str(value)[:500] for name, value in run.config.items()})
        yield lambda row: mlflow.log_metrics(dict(row), step=int(row["step"]))


@contextlib.contextmanager
def _wandb(run: TrackedRun) -> Iterator[Callable[[Row], object]]:
    """A run of Weights & Biases, continued when training is resumed.

    WANDB_API_KEY, WANDB_MODE and the like say where; WANDB_PROJECT is ``c2am-dist`` if unset.
    """
    import wandb  # type: ignore

    with wandb.init(
        project=os.environ.get("WANDB_PROJECT") or _PROJECT,
        id=run.key,
        name=run.name,
        config=run.config,
        resume="allow",
        settings=wandb.Settings(console="off"),
    ) as session:
        session.define_metric("*", step_metric="step")  # its own steps cannot go back on a resume
        yield lambda row: session.log(dict(row))


HOOKS: dict[str, Hook] = {"mlflow": _mlflow, "wandb": _wandb}


def find_hook(tracker: str) -> Hook:
    """The hook that ``run.tracker`` names.

    Raises:
        ValueError: its package is not installed here, or it cannot be imported.
    """
    if tracker in HOOKS:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(f"run.tracker: {tracker} is not installed")
        return HOOKS[tracker]
    module, _, function = tracker.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"run.tracker: {tracker}: {error}") from error


class Tracking:
    """A hook at work in a thread; does nothing where ``tracker`` is empty."""

    def __init__(self, tracker: str, run: TrackedRun) -> None:
        self._rows = queue.SimpleQueue[Row | None]()
        self._thread: threading.Thread | None = None
        if tracker:
            self._thread = threading.Thread(target=self._work, args=(tracker, run), daemon=True)
            self._thread.start()

    def log(self, row: Row) -> None:
        """Hands a row over, and returns at once."""
        if self._thread is not None and self._thread.is_alive():
            self._rows.put(row)

    def close(self) -> None:
        """Lets the hook end its run; leaves it behind after `CLOSE_S` seconds."""
        if self._thread is None:
            return
        self._rows.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.warning("run.tracker: it has not taken all rows within %g s", CLOSE_S)

    def _work(self, tracker: str, run: TrackedRun) -> None:
        try:
            with find_hook(tracker)(run) as log:
                while (row := self._rows.get()) is not None:
                    log(row)
        except BaseException as error:  # whatever it is, even SystemExit: training goes on
            text = names.printable(_CREDENTIALS.sub("", str(error)))
            logger.warning("run.tracker: %s: %s; no more rows go to it", type(error).__name__, text)
