"""``sweep(config, base)``: trials planned, run by Ray Tune, recorded, compared."""

import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy
import pyarrow as pa
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from c2am_dist import __version__, names, storage
from c2am_dist.config import TrainConfig, to_json
from c2am_dist.data import plan as epoch_plan
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.evaluation.inputs import Annotations, read_annotations
from c2am_dist.method.contours import compile_scan
from c2am_dist.sweep import results
from c2am_dist.sweep.concurrency import Cluster, num_concurrent, with_share
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.score import Scorers
from c2am_dist.sweep.spec import SweepConfig, Trial, absolute, differences, folder_of, plan
from c2am_dist.sweep.trial import Shared, TrialRun, inputs_key
from c2am_dist.training import Inputs, read_inputs

SOME_CPU = 0.01
"""Reserved by a trial's own process, which watches its workers."""
_FREE = ("concurrent", "retry_failed")  # change no trial's result


def sweep(config: SweepConfig, base: TrainConfig) -> pa.Table:
    """Runs what is missing of a sweep and returns its table; needs a connection to Ray.

    Args:
        config: what varies, and how trials are compared.
        base: every trial's config but for what varies; its run is the sweep's folder.

    Raises:
        FileNotFoundError, ValueError: a field, a value, the shards, the weights or the
            annotations are unusable, or the folder is another sweep's; nothing has started then.
    """
    base = absolute(base)
    trials, folder = plan(config, base), folder_of(base)
    _refuse_another(folder, _description(config, base))
    records = results.read_records(folder, trials)
    if config.retry_failed:
        records = {name: r for name, r in records.items() if r.status != "failed"}
    todo = [trial for trial in trials if trial.name not in records]
    print(f"{folder}: {len(trials)} trials, {len(todo)} of them to run", flush=True)
    if todo:
        number, placed = _placed(trials, config.concurrent)
        shared = _share(config, base, placed, records)
        _write_description(folder, _description(config, base))
        recorder = _Recorder(folder, trials, records, config)
        recorder.write_tables()
        # Those that are over tell ASHA what they reached; else there is no need for them.
        trials_to_run = trials if config.asha else todo
        at_a_time = dataclasses.replace(config, concurrent=number)
        _run_trials(trials_to_run, shared, recorder, at_a_time, base)
    found = results.table(trials, records, config)
    results.write(folder, found)
    return found


def _description(config: SweepConfig, base: TrainConfig) -> dict[str, Any]:
    """What must agree for a sweep to go on: its results would mean something else."""
    told = json.loads(json.dumps(dataclasses.asdict(config)))
    tree = json.loads(to_json(base))
    del tree["scaling"], tree["data"]["decode_tasks"], tree["data"]["prefetch"]
    del tree["run"]["max_failures"], tree["run"]["storage"]  # a folder may be moved
    return {
        "sweep": {name: value for name, value in told.items() if name not in _FREE},
        "config": tree,
        "versions": {"c2am_dist": __version__},
    }


def _uri(folder: str) -> str:
    return storage.join(folder, "sweep.json")


def _refuse_another(folder: str, description: dict[str, Any]) -> None:
    if not storage.exists(_uri(folder)):
        if storage.exists(storage.join(folder, "config.json")):
            raise ValueError(f"run.name: {folder} is a training run; choose another name")
        return
    found = storage.read_json(_uri(folder))
    old = {name: found.get(name, {}) for name in description}
    old["versions"] = {"c2am_dist": old["versions"].get("c2am_dist")}
    if changed := differences(old, description):
        raise ValueError(
            f"run.name: {folder} holds another sweep: {'; '.join(changed)}. "
            "Choose another name, or delete that folder"
        )


def _write_description(folder: str, description: dict[str, Any]) -> None:
    """Writes ``sweep.json`` at the first start; it stays what it was at later ones."""
    if storage.exists(_uri(folder)):
        return
    modules = {"ray": ray, "torch": torch, "numpy": numpy, "pyarrow": pa, "numba": numba}
    versions = {name: module.__version__ for name, module in modules.items()}
    versions["python"] = sys.version.split()[0]
    told = {
        **description,
        "versions": description["versions"] | versions,
        "command": ["python", *sys.argv],
    }
    storage.write_bytes(_uri(folder), (json.dumps(told, indent=2) + "\n").encode())


def _share(
    config: SweepConfig, base: TrainConfig, trials: Sequence[Trial], records: dict[str, Record]
) -> Shared:
    """Reads what trials have in common and starts the scorers; refuses what cannot be read."""
    inputs: dict[tuple[Any, ...], Inputs] = {}
    for trial in trials:
        key = inputs_key(trial.config)
        if key not in inputs:
            inputs[key] = read_inputs(trial.config)
    annotations, row_groups = _to_score(config, base)
    compile_scan()  # here once, into numba's cache, instead of in every scorer
    scorers = Scorers.start(row_groups, annotations, base.data.max_megapixels)
    return Shared(
        trials={trial.name: trial for trial in trials},
        inputs=inputs,
        scorers=scorers,
        objective=config.chosen_objective,
        asha_grace=config.asha_grace if config.asha else None,
        earlier=records,
    )


def _to_score(config: SweepConfig, base: TrainConfig) -> tuple[Annotations | None, list[RowGroup]]:
    """What is known of the images to score, and where they lie."""
    uris = [storage.absolute(uri) for uri in config.annotations or base.data.train]
    row_groups = epoch_plan.limit(shards.index(uris), config.score_images)
    if not config.annotations:
        return None, row_groups
    annotations = read_annotations(uris)
    if not any(any(shards.read(g, ["boxes"])["boxes"].to_pylist()) for g in row_groups):
        raise ValueError(
            f"annotations: none of the {sum(g.num_rows for g in row_groups)} images of "
            f"{', '.join(config.annotations)} that would be scored has a box (--score-images)"
        )
    # Masks are read anew for each image that is scored, and no objective looks at them.
    return dataclasses.replace(annotations, mask_uris=frozenset()), row_groups


def _placed(trials: Sequence[Trial], wanted: int | None) -> tuple[int, list[Trial]]:
    """How many trials run at a time on this cluster, and the trials with their share of it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cluster = Cluster(
        node_cpus=tuple(node["CPU"] for node in nodes if node.get("CPU")),
        num_gpus=sum(node.get("GPU", 0.0) for node in nodes),
    )
    number = num_concurrent([trial.config for trial in trials], cluster, wanted)
    shares = (with_share(t.config, cluster, number, is_wanted=wanted is not None) for t in trials)
    pairs = zip(trials, shares, strict=True)
    return number, [dataclasses.replace(trial, config=share) for trial, share in pairs]


class _Recorder(tune.Callback):
    """Keeps what Ray Tune says of trials that are over, in the sweep's folder, and says it."""

    def __init__(
        self,
        folder: str,
        trials: Sequence[Trial],
        records: dict[str, Record],
        config: SweepConfig,
    ) -> None:
        self._folder, self._trials, self._config = folder, trials, config
        self._by_name = {trial.name: trial for trial in trials}
        self._records = records

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has come to its end, or ASHA ended it."""
        record = Record(**trial.last_result["record"])
        if record.status == "unfinished":
            at = f"at {record.history[-1][0]:.0f}% of its schedule"
            record = dataclasses.replace(record, status="stopped", reason=f"by ASHA {at}")
        self._keep(trial, record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's own process was lost too often; the failures of its run are told by itself."""
        lines = Path(trial.error_file).read_text().strip().splitlines()
        self._keep(trial, Record(status="failed", reason=names.printable(lines[-1])))

    def _keep(self, told: Any, record: Record) -> None:
        name = told.config["trial"]
        if name in self._records:
            return  # of an earlier start
        self._records[name] = record
        results.write_record(self._folder, self._by_name[name], record)
        self.write_tables()
        objective = self._config.chosen_objective
        value = record.figures.get(objective)
        figure = "" if value is None else f", {objective} {value:.4g}"
        reason = f" ({record.reason})" if record.reason else ""
        print(
            f"[{len(self._records)}/{len(self._trials)}] {name}: {record.status}{reason}{figure}, "
            f"{record.seconds:.0f} s",
            flush=True,
        )

    def write_tables(self) -> None:
        results.write(self._folder, results.table(self._trials, self._records, self._config))


def _run_trials(
    trials: Sequence[Trial],
    shared: Shared,
    recorder: _Recorder,
    config: SweepConfig,
    base: TrainConfig,
) -> None:
    """Ray Tune over the trials; what it keeps for itself goes to a folder on this machine."""
    # A failed trial has no objective; nobody reads Tune's own logs, so it need not miss them.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    scheduler = None
    if config.asha:
        scheduler = ASHAScheduler(
            time_attr="percent",
            metric=config.chosen_objective,
            mode=config.mode,
            max_t=100,
            grace_period=100 * config.asha_grace,  # type: ignore[arg-type]
            reduction_factor=config.asha_factor,
        )
    with tempfile.TemporaryDirectory(prefix="c2am-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(TrialRun, shared=shared), {"cpu": SOME_CPU}),
            param_space={"trial": tune.grid_search([trial.name for trial in trials])},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=config.concurrent,
                # A trial that ASHA ends is ended with its process; others leave theirs warm.
                reuse_actors=not config.asha,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=base.run.max_failures),
                # The run writes its own; Tune would ask a trial's process for one at its end.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()
