"""``fit(config)``: shards and weights checked, Ray Train started, the run's end judged."""

import dataclasses
import functools
import json
import logging
import tempfile
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from c2am_dist import checkpoint, names, storage
from c2am_dist.config import TrainConfig, flat, to_json
from c2am_dist.data import feed, plan, stream
from c2am_dist.training import inputs, tracking
from c2am_dist.training.failures import NoRepetition, TrainingStopped
from c2am_dist.training.inputs import Inputs
from c2am_dist.training.loop import Job, worker_loop
from c2am_dist.training.rendezvous import LoopbackTorchConfig

logger = logging.getLogger(__name__)

KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
"""Environment in which glibc keeps what tensors free, for the next step's.

It would return each large tensor to the system, which hands the same memory out again page by
page: a step of ResNet-50 (32 images) took 1.45 million page faults, a seventh of its time. One
arena, since those of threads other than the first, where Ray Train trains, are given back whole.
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """Where a finished run lies."""

    run: str
    """URI of the run's folder."""
    checkpoint: str
    """URI of the final checkpoint."""
    manifest: dict[str, Any]
    """The final checkpoint's manifest: step, polarity, digest."""


def fit(config: TrainConfig, shared: Inputs | None = None) -> FitResult:
    """Trains to the end of the schedule, from the run's latest checkpoint where it has one.

    Args:
        config: the run.
        shared: what :func:`read_inputs` read for this or another run of the same inputs.

    Raises:
        FileNotFoundError, ValueError: the shards, weights or config are unusable, or the run
            exists with another config; the message names the culprit.
        TrainingStopped: the loss is not finite, the map collapsed or memory was short; the last
            good checkpoint stays.
    """
    config.check_complete()
    run = storage.absolute(storage.join(config.run.storage, config.run.name))
    final = storage.join(run, "checkpoint")
    refuse_other_config(run, config)
    if storage.exists(storage.join(final, "manifest.json")):
        print(f"{run}: already finished")
        return FitResult(run=run, checkpoint=final, manifest=checkpoint.read_manifest(final))
    if config.run.tracker:
        tracking.find_hook(config.run.tracker)
    job = _plan_job(config, run, shared or inputs.read_inputs(config))
    if checkpoint.latest_step(run) != job.total_steps:  # it may have been killed right after
        _train(job)
    checkpoint.copy(checkpoint.step_folder(run, job.total_steps), final)
    return FitResult(run=run, checkpoint=final, manifest=checkpoint.read_manifest(final))


def _plan_job(config: TrainConfig, run: str, found: Inputs) -> Job:
    row_groups = plan.limit(found.row_groups, config.data.limit)
    per_epoch, total_steps = inputs.num_steps(config, row_groups)
    _refuse_other_labels(run, "boxes", found.boxes_sha256)
    _refuse_other_labels(run, "cues", found.cues_sha256)
    classes = inputs.find_classes(config, row_groups)
    inputs.check_last_layer(config, found.last_layer, classes)
    if not found.has_weights and config.method == "c2am":
        logger.warning(
            "model.weights none: from a random encoder the map may follow the image border "
            "instead of its content; pretrain one first (--method classifier)"
        )
    num_images = sum(group.num_rows for group in row_groups)
    print(
        f"{config.run.name}: {num_images} images, {per_epoch} steps an epoch, "
        f"{total_steps} steps of {config.optim.batch_size} images"
    )
    return Job(
        config=config,
        run=run,
        row_groups=row_groups,
        classes=classes,
        steps_per_epoch=per_epoch,
        total_steps=total_steps,
        encoder_weights=found.encoder_weights,
        weights_sha256=found.weights_sha256,
        boxes=found.boxes,
        boxes_sha256=found.boxes_sha256,
        cues=found.cues,
        cues_sha256=found.cues_sha256,
    )


def _refuse_other_labels(run: str, kind: str, sha256: str) -> None:
    """Raises ValueError when the run began with other boxes or cues in the same label sets."""
    latest = checkpoint.latest_step(run)
    if latest is None:
        return
    folder = checkpoint.step_folder(run, latest)
    if checkpoint.read_manifest(folder).get(f"{kind}_sha256", "") != sha256:
        raise ValueError(
            f"data.{kind}: {folder} was trained on other {kind} than these label sets hold now. "
            "Choose another run.name, or restore them"
        )


def _train(job: Job) -> None:
    storage.write_bytes(storage.join(job.run, "config.json"), (to_json(job.config) + "\n").encode())
    stopped = _run_workers(job)
    if stopped:
        raise TrainingStopped(f"{job.config.run.name}: {stopped}")


def _run_workers(job: Job) -> str | None:
    """Why training stopped early, if it did; failures count only until the next checkpoint."""
    while True:
        start_step = checkpoint.latest_step(job.run)
        try:
            with tempfile.TemporaryDirectory(prefix="c2am-") as scratch:
                return (_trainer(job, scratch).fit().return_value or {}).get("stopped")
        except ray.train.WorkerGroupError as error:
            if checkpoint.latest_step(job.run) == start_step:
                raise
            text = names.printable(str(error))
            logger.warning("training goes on after its workers failed: %s", text)
        except ray.train.ControllerError as error:
            if isinstance(error.controller_failure, ValueError | OSError):
                raise error.controller_failure from error  # see NoRepetition
            raise


def _trainer(job: Job, scratch: str) -> TorchTrainer:
    """Ray's trainer; its own record, which nothing reads, goes to a folder on this machine."""
    scaling = _scaling(job.config)
    return TorchTrainer(
        worker_loop,
        train_loop_config={"job": job},
        datasets={"train": _unused_dataset},
        dataset_config=feed.Feed(functools.partial(_stream, job)),
        torch_config=LoopbackTorchConfig(),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            storage_path=scratch,
            name="run",
            callbacks=[NoRepetition()],
            failure_config=ray.train.FailureConfig(max_failures=job.config.run.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            worker_runtime_env={} if scaling.use_gpu else {"env_vars": KEEP_FREED_MEMORY},
        ),
    )


def _unused_dataset() -> ray.data.Dataset:
    """What Ray Train wants beside a Feed, which makes the stream itself; it is never read."""
    return ray.data.range(1)


def _stream(job: Job, num_workers: int) -> ray.data.Dataset:
    """The parts still to train on; called anew whenever the workers (re)start.

    None of them writes then, so what killed ones have left half written is swept away, too.
    """
    config = job.config
    storage.sweep(job.run)
    return stream.parts(
        job.row_groups,
        data=config.data,
        seed=config.run.seed,
        batch_size=config.optim.batch_size,
        num_workers=num_workers,
        start_step=checkpoint.latest_step(job.run) or 0,
        total_steps=job.total_steps,
        classes=job.classes,
        label_column="labels" if config.needs_label_lists else "label",
        boxes=ray.get(job.boxes),
        cues=ray.get(job.cues),
    )


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    use_gpu, cpus = shares(config, ray.cluster_resources())
    return ray.train.ScalingConfig(
        num_workers=config.scaling.num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
    )


def shares(config: TrainConfig, resources: Mapping[str, float]) -> tuple[bool, float]:
    """Whether a worker gets a GPU, and its CPUs.

    A GPU where there are any; else half the CPUs for all workers, so that the rest can decode.

    Raises:
        ValueError: the cluster has scaled to zero, so nothing says what its workers will be.
    """
    use_gpu = config.scaling.use_gpu
    if use_gpu is None:
        if not resources.get("CPU"):
            raise ValueError(
                "scaling.use_gpu must be given: the cluster has no worker node yet to judge by"
            )
        use_gpu = resources.get("GPU", 0) > 0
    cpus = config.scaling.cpus_per_worker
    if cpus is None:
        share = resources.get("CPU", 0) / 2 / config.scaling.max_workers
        cpus = 1.0 if use_gpu or not share else round(share, 2)
    return use_gpu, cpus


def refuse_other_config(run: str, config: TrainConfig) -> None:
    """Raises ValueError when the run was started with values that would change its result."""
    uri = storage.join(run, "config.json")
    if not storage.exists(uri):
        return
    # Fields that are newer than the run had their defaults then.
    old = flat(json.loads(to_json(TrainConfig()))) | flat(storage.read_json(uri))
    new = flat(json.loads(to_json(config)))
    free = ("scaling.", "run.storage", "run.log_every", "run.checkpoint_every", "run.keep_")
    free += ("run.max_failures", "run.tracker", "data.decode_tasks", "data.prefetch")
    changed = [
        f"{path} was {old.get(path)!r}, now {value!r}"
        for path, value in new.items()
        if old.get(path) != value and not path.startswith(free)
    ]
    if changed:
        raise ValueError(
            f"run.name: {run} exists with another config: {'; '.join(changed)}. "
            "Choose another name, or delete that folder"
        )
