"""``fit(config)``: shards and weights checked, Ray Train started, the run's end judged."""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import uuid
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from torch import Tensor

from c2am_dist import checkpoint, storage
from c2am_dist.config import TrainConfig, to_json
from c2am_dist.data import plan, shards, stream
from c2am_dist.method import encoders
from c2am_dist.training.loop import Job, TrainingStopped, worker_loop
from c2am_dist.training.rendezvous import LoopbackTorchConfig

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """Where a finished run lies."""

    run: str
    """URI of the run's folder."""
    checkpoint: str
    """URI of the final checkpoint."""
    manifest: dict[str, Any]
    """The final checkpoint's manifest: step, polarity, digest."""


def fit(config: TrainConfig) -> FitResult:
    """Trains to the end of the schedule, from the run's latest checkpoint where it has one.

    Raises:
        FileNotFoundError, ValueError: the shards, weights or config are unusable, or the run
            exists with another config; the message names the culprit.
        TrainingStopped: the loss is not finite or the map collapsed; the last good checkpoint
            stays.
    """
    config.check_complete()
    run = storage.absolute(storage.join(config.run.storage, config.run.name))
    final = storage.join(run, "checkpoint")
    _refuse_other_config(run, config)
    if storage.exists(storage.join(final, "manifest.json")):
        print(f"{run}: already finished")
        return FitResult(run=run, checkpoint=final, manifest=checkpoint.read_manifest(final))
    job = _plan_job(config, run)
    _train(job)
    return FitResult(run=run, checkpoint=final, manifest=checkpoint.read_manifest(final))


def _plan_job(config: TrainConfig, run: str) -> Job:
    columns = ["image_id", "image", *(["label"] if config.method == "classifier" else [])]
    found = shards.index([storage.absolute(uri) for uri in config.data.train], columns=columns)
    row_groups = plan.limit(found, config.data.limit)
    per_epoch = plan.steps_per_epoch(row_groups, batch_size=config.optim.batch_size)
    total_steps = math.ceil(per_epoch * config.optim.epochs)
    if config.optim.max_steps is not None:
        total_steps = min(total_steps, config.optim.max_steps)
    weights, sha256 = _encoder_weights(config)
    if weights is None and config.method == "c2am":
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
        classes=stream.classes_of(row_groups) if config.method == "classifier" else [],
        steps_per_epoch=per_epoch,
        total_steps=total_steps,
        encoder_weights=ray.put(weights),
        weights_sha256=sha256,
    )


def _train(job: Job) -> None:
    storage.sweep(job.run)
    storage.write_bytes(storage.join(job.run, "config.json"), (to_json(job.config) + "\n").encode())
    scratch = f".ray-{uuid.uuid4().hex[:8]}"  # Ray's own record of this attempt
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"job": job},
        datasets={"train": _unused_dataset},
        dataset_config=stream.Feed(functools.partial(_stream, job)),
        torch_config=LoopbackTorchConfig(),
        scaling_config=_scaling(job.config),
        run_config=ray.train.RunConfig(
            storage_path=job.run,
            name=scratch,
            failure_config=ray.train.FailureConfig(max_failures=job.config.run.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    finally:
        storage.delete_folder(storage.join(job.run, scratch))
    stopped = (result.return_value or {}).get("stopped")
    if stopped:
        raise TrainingStopped(f"{job.config.run.name}: {stopped}")


def _unused_dataset() -> ray.data.Dataset:
    """What Ray Train wants beside a Feed, which makes the stream itself; it is never read."""
    return ray.data.range(1)


def _stream(job: Job, num_workers: int) -> ray.data.Dataset:
    """The batches still to train on; called anew whenever the workers (re)start."""
    config = job.config
    return stream.batches(
        job.row_groups,
        data=config.data,
        seed=config.run.seed,
        batch_size=config.optim.batch_size,
        num_workers=num_workers,
        start_step=checkpoint.latest_step(job.run) or 0,
        total_steps=job.total_steps,
        classes=job.classes,
    )


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    """A GPU a worker where there are any; else half the CPUs, so that the rest can decode.

    Raises:
        ValueError: the cluster has scaled to zero, so nothing says what its workers will be.
    """
    resources = ray.cluster_resources()
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
    return ray.train.ScalingConfig(
        num_workers=config.scaling.num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
    )


def _encoder_weights(config: TrainConfig) -> tuple[dict[str, Tensor] | None, str]:
    """The state dict ``model.weights`` names, checked against the encoder, and its SHA-256."""
    uri = config.model.weights
    if uri == "none":
        return None, ""
    if storage.exists(uri):
        if storage.info(uri).is_file:
            data = storage.read_bytes(uri)
            state, sha256 = encoders.read_state_dict(data, uri), hashlib.sha256(data).hexdigest()
        else:
            restored, sha256 = checkpoint.load(uri)
            state = restored.model
    elif "/" in uri or "." in os.path.basename(uri).replace("_Weights.", ""):
        raise FileNotFoundError(f"model.weights: {uri}: no such file")
    else:
        state = encoders.torchvision_state_dict(config.model.encoder, uri)
        sha256 = ""
    try:
        report = encoders.load_weights(encoders.build_encoder(config.model.encoder), state)
    except ValueError as error:
        raise ValueError(f"model.weights: {uri}: {error}") from error
    print(
        f"{uri}: {len(report.matched)} keys matched, {len(report.missing)} missing, "
        f"{len(report.unexpected)} not of the encoder"
    )
    return state, sha256


def _refuse_other_config(run: str, config: TrainConfig) -> None:
    """Raises ValueError when the run was started with values that would change its result."""
    uri = storage.join(run, "config.json")
    if not storage.exists(uri):
        return
    old = _flat(storage.read_json(uri))
    new = _flat(json.loads(to_json(config)))
    free = ("scaling.", "run.storage", "run.log_every", "run.checkpoint_every", "run.keep_")
    free += ("run.max_failures", "data.decode_tasks")
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            items |= _flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items
