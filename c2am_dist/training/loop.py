"""What every training worker does: batch, model, gather, loss, step, report."""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c2am_dist import checkpoint, distributed
from c2am_dist.config import TrainConfig, to_json
from c2am_dist.data import plan, stream
from c2am_dist.data.cue_sets import CueSets
from c2am_dist.data.pseudo_boxes import PseudoBoxes
from c2am_dist.data.shards import RowGroup
from c2am_dist.data.stream import Part
from c2am_dist.method import encoders, optim
from c2am_dist.method.bridging_model import BridgingClassifier
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.weights import linear_layer, load_weights
from c2am_dist.training.batch import Autocast, Batch
from c2am_dist.training.failures import TrainingStopped
from c2am_dist.training.methods import METHODS, Model
from c2am_dist.training.polarity import MapSurvey, survey
from c2am_dist.training.progress import RunLog, Window


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the driver hands to every worker: plain values and one object reference."""

    config: TrainConfig
    run: str
    """URI of the run's folder."""
    row_groups: list[RowGroup]
    classes: list[str]
    steps_per_epoch: int
    total_steps: int
    encoder_weights: "ray.ObjectRef[dict[str, Tensor] | None]"
    """Reference to the encoder's state dict, or to None for random weights."""
    weights_sha256: str
    boxes: "ray.ObjectRef[PseudoBoxes | None]"
    """Reference to the pseudo boxes, or to None; read by the stream's tasks alone."""
    boxes_sha256: str
    cues: "ray.ObjectRef[CueSets | None]"
    """Reference to where the background cues lie, or to None; as ``boxes``."""
    cues_sha256: str


def worker_loop(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains until the schedule ends; returns why it stopped early, if it did."""
    job: Job = settings["job"]
    # RunConfig's level does not reach the logger of the line that Ray prints for every report.
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(job.config.run.seed)  # the head starts alike on every worker
    device = ray.train.torch.get_device()
    rank = ray.train.get_context().get_world_rank()
    logging.getLogger().setLevel(logging.WARNING)  # Ray sets INFO, where boto and Ray chat
    _share_cpus()
    model, optimizer, start_step = _restore(job, device)
    log = RunLog(job, start_step) if rank == 0 else None
    try:
        _train(job, model, optimizer, start_step, log)
        return {"stopped": None}
    except TrainingStopped as reason:  # a repetition would end the same: no restart
        return {"stopped": str(reason)}
    finally:
        if log is not None:
            log.close()


def _train(
    job: Job,
    model: Model,
    optimizer: torch.optim.Optimizer,
    start_step: int,
    log: RunLog | None,
) -> None:
    config, device = job.config, next(model.parameters()).device
    method = METHODS[config.method]
    replica = _replicate(model)
    autocast = _autocast(config, device)
    window = Window(config.optim.batch_size)
    for part in _parts(job, start_step):
        with window.waiting_ends():
            batch = _to_device(part, device, job)
        _set_learning_rate(optimizer, job, part.step)
        terms = method.backward(replica, batch, config=config, autocast=autocast)
        # The gradients are those of the global batch by now, so all workers clip alike.
        optim.clipped_step(optimizer, max_norm=config.optim.max_gradient_norm)
        window.add(terms, num_replaced=int(part.is_replaced.sum()))
        done = part.step + 1
        if done % config.run.log_every == 0 or done == job.total_steps:
            row = window.close(step=done, epoch=done / job.steps_per_epoch, optimizer=optimizer)
            if log is not None:
                log.write(row)
            _check_finite(row)
        if done % config.run.checkpoint_every == 0 or done == job.total_steps:
            _save(job, model, optimizer, done, log, autocast)
            window.restart()


def _parts(job: Job, start_step: int) -> Iterator[Part]:
    """This worker's part of each global batch from ``start_step`` on, in the plan's order."""
    if start_step == job.total_steps:
        return
    shard = ray.train.get_dataset_shard("train")
    assert shard is not None
    step = start_step - 1
    data = job.config.data
    parts = stream.worker_parts(
        shard,
        crop_px=data.crop_px,
        prefetch=data.prefetch,
        num_classes=len(job.classes) if job.config.needs_label_lists else None,
    )
    for step, part in enumerate(parts, start_step):
        if part.step != step:
            raise RuntimeError(f"the stream delivered step {part.step}, expected {step}")
        yield part
    if step + 1 != job.total_steps:
        raise RuntimeError(f"the stream ended after step {step + 1} of {job.total_steps}")


def _to_device(part: Part, device: torch.device, job: Job) -> Batch:
    def move(array: np.ndarray | None) -> Tensor | None:
        if array is None:
            return None
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    context = ray.train.get_context()
    sizes = plan.part_sizes(job.config.optim.batch_size, context.get_world_size())
    pixels, cues = move(part.images), move(part.cues)
    assert pixels is not None
    return Batch(
        images=encoders.normalise(pixels),
        labels=move(part.labels),
        boxes=move(part.boxes),
        is_visible=move(part.is_visible),
        cues=None if cues is None else cues.float() / 255,
        is_known=move(part.is_known),
        step=part.step,
        total_steps=job.total_steps,
        row_offset=sum(sizes[: context.get_world_rank()]),
    )


def _restore(job: Job, device: torch.device) -> tuple[Model, torch.optim.Optimizer, int]:
    """The model and optimizer as the latest checkpoint left them, or at their start."""
    config = job.config
    model = METHODS[config.method].build(config, num_classes=len(job.classes))
    latest = checkpoint.latest_step(job.run)
    restored = None
    if latest is not None:
        restored, _ = checkpoint.load(checkpoint.step_folder(job.run, latest))
        model.load_state_dict(restored.model)
    elif (weights := ray.get(job.encoder_weights)) is not None:
        load_weights(model.encoder, weights)
        if config.model.last_layer == "weights":
            _load_last_layer(model, weights)
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if config.model.norm == "frozen":
        encoders.freeze_norm(model.encoder)
    if config.model.norm != "worker":  # with a frozen encoder this leaves the head's
        distributed.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(
        optim.parameter_groups(
            model,
            lr=config.optim.scaled_lr,
            head_lr_factor=config.optim.head_lr_factor,
            weight_decay=config.optim.weight_decay,
            train_norm_affine=config.optim.train_norm_affine,
        ),
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    if restored is not None:
        optimizer.load_state_dict(restored.optimizer)
    if config.optim.compile:
        model.encoder.compile()
    return model, optimizer, latest or 0


def _load_last_layer(model: Model, weights: dict[str, Tensor]) -> None:
    """Fills a classifier's ``fc``, whose classes the driver has compared."""
    assert isinstance(model, Classifier | BridgingClassifier)
    linear = linear_layer(weights, model.encoder.num_last_features)
    assert linear is not None
    with torch.no_grad():
        model.fc.weight.copy_(linear[0])
        model.fc.bias.copy_(linear[1])


def _replicate(model: Model) -> nn.Module:
    """The model behind gradient averaging; BatchNorm's buffers agree already or stay local."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)


def _autocast(config: TrainConfig, device: torch.device) -> Autocast:
    precision = config.optim.precision
    is_mixed = precision == "bf16" or (precision == "auto" and has_bf16_units(device))
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 is computed rather than emulated: on GPUs, and CPUs with AVX512-BF16."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def _set_learning_rate(optimizer: torch.optim.Optimizer, job: Job, step: int) -> None:
    config = job.config.optim
    factor = optim.polynomial_lr(step, job.total_steps, config.power)
    epoch = step / job.steps_per_epoch
    factor *= optim.stepped_lr(epoch, config.decay_epochs, config.decay_factor)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _share_cpus() -> None:
    """Gives each worker its share of the node's cores; Ray would leave it one."""
    num_local = ray.train.get_context().get_local_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_local))


def _check_finite(row: dict[str, float]) -> None:
    """Raises TrainingStopped on every worker alike: the row is a mean over all of them."""
    if not math.isfinite(row["loss"]):
        raise TrainingStopped(
            f"the loss is {row['loss']} at step {row['step']}; the last good checkpoint is "
            "kept. Lower optim.lr, or set optim.precision float32"
        )


def _save(
    job: Job,
    model: Model,
    optimizer: torch.optim.Optimizer,
    step: int,
    log: RunLog | None,
    autocast: Autocast,
) -> None:
    """Measures the maps on all workers; the first writes the checkpoint and reports it."""
    started = time.perf_counter()
    maps = survey(job, model, autocast) if job.config.method == "c2am" else MapSurvey.none()
    if maps.is_collapsed:
        raise TrainingStopped(
            f"the activation map has collapsed at step {step}: P is the same everywhere "
            f"(deviation {maps.deviation:.2g}); the last good checkpoint is kept"
        )
    folder = checkpoint.step_folder(job.run, step)
    if log is not None:
        content = checkpoint.Checkpoint(
            method=job.config.method,
            encoder=job.config.model.encoder,
            model={name: value.cpu() for name, value in model.state_dict().items()},
            optimizer=optimizer.state_dict(),
            step=step,
            total_steps=job.total_steps,
            classes=job.classes,
            polarity=maps.polarity,
            polarity_margin=maps.polarity_margin,
            border_lock=maps.border_lock,
            crop_px=job.config.data.crop_px,
            weights_sha256=job.weights_sha256,
            output_stride=job.config.output_stride,
            boxes_sha256=job.boxes_sha256,
            cues_sha256=job.cues_sha256,
            config=to_json(job.config),
        )
        log.publish()  # before the checkpoint counts: who resumes from it has the rows up to it
        checkpoint.save(folder, content)
        checkpoint.prune(job.run, job.config.run.keep_checkpoints)
        log.checkpoint_written(step, maps, seconds=time.perf_counter() - started)
    # Ray is told where the checkpoint lies but does not manage it: only then is it whole or absent.
    ray.train.report(
        {"step": step, "polarity_margin": maps.polarity_margin, "checkpoint_path": folder}
    )
