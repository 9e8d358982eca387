"""Predictions for every image of a set: the five likeliest classes, by labeling's own machinery.

The folder is filled by folder.py, and read, decoded and written as label files are.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import ray
import torch
from torch import nn

from c2am_dist import __version__, schema, storage
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import ClassifyConfig, digest, to_json
from c2am_dist.labeling import folder, labels, models
from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.decode import Decoding
from c2am_dist.labeling.folder import LabelReport
from c2am_dist.labeling.pipeline import Work
from c2am_dist.labeling.rows import prediction_rows
from c2am_dist.method import encoders, torchvision_classifiers
from c2am_dist.method.torchvision_classifiers import InputSpec
from c2am_dist.method.weights import WeightsError, is_weights_name
from c2am_dist.storage import File

NUM_CLASSES = 5
"""That a row names, if the classifier knows as many."""


class Classification(NamedTuple):
    """A classifier and what it is fed."""

    model: nn.Module
    """In evaluation mode; normalised images to logits."""
    classes: Sequence[str]
    """In order of the outputs."""
    spec: InputSpec
    num_crops: Literal[1, 10]


class ClassifyActor:
    """Turns the pixels of a block into the likeliest classes of its images.

    Args:
        classification: reference to it, one object for all actors.
        config: batch size and precision.
    """

    def __init__(
        self, classification: "ray.ObjectRef[Classification]", config: ClassifyConfig
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._job = ray.get(classification)
        self._job.model.to(self._device, memory_format=torch.channels_last)  # type: ignore
        self._names = np.array([*self._job.classes], dtype=object)
        self._config = config

    def __call__(self, block: Batch) -> Batch:
        """The block with ``classes`` (texts n k) and ``probabilities`` (n k) in place of pixels."""
        torch.set_num_threads(1)  # see ModelActor
        pixels, step = block.pop("pixels_0"), self._config.batch_size
        parts = [self._top(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        order, probabilities = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return {**block, "class_index": order, "probabilities": probabilities}

    @torch.inference_mode()
    def _top(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spec, is_bf16 = self._job.spec, self._config.precision == "bf16"
        batch = torch.tensor(pixels).to(self._device, non_blocking=True)
        batch = encoders.normalise(batch, spec.mean, spec.std)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bf16):
            probabilities = torchvision_classifiers.classify(
                self._job.model, batch, spec.crop_px, num_crops=self._job.num_crops
            )
        order, found = torchvision_classifiers.top_classes(probabilities, NUM_CLASSES)
        return order.cpu().numpy(), found.cpu().numpy()


def classify(config: ClassifyConfig) -> LabelReport:
    """Writes one file of predictions for each shard of the input; needs a connection to Ray.

    A job that was cut off goes on: finished files stay as they are.

    Raises:
        FileNotFoundError: the checkpoint or the input is not there.
        ValueError: a field is missing, a shard cannot be read, the checkpoint is no classifier or
            nothing says what its classes are called, or the output holds other files or those of
            another job; the message names the URI or the flag.
    """
    started = time.monotonic()
    config.check_complete()
    inputs = storage.expand(config.input)
    folder.refuse_empty(inputs, config.input)
    classification, name, sha256 = load(config, inputs)
    config = _resolve(config, classification.spec)
    # Where rows go, how many actors make them and how many may fail changes nothing in them.
    same = dataclasses.replace(
        config, output="", num_actors=None, use_gpu=None, max_error_fraction=1.0
    )
    digests = {"checkpoint_sha256": sha256, "config_sha256": digest(same)}
    identity = folder.identity_of(inputs, **digests)
    common = {"classifier": name, "package_version": __version__} | digests
    metadata = {f"c2am_dist.{key}": value for key, value in common.items()}

    def make_work() -> Work:
        return Work(
            decoding=Decoding(
                sizes_px=(classification.spec.resize_px,),
                batch_size=config.batch_size,
                max_pixels=config.max_megapixels * 1e6,
                labels="if any",
                keep_aspect=config.resize == "middle",
            ),
            actor=ClassifyActor,
            arguments=(ray.put(classification), config),
            rows=functools.partial(prediction_rows, classes=classification.classes, common=common),
            schema=schema.PREDICTIONS,
            metadata=metadata | {"c2am_dist.config": to_json(same)},
            shares=config,
        )

    return folder.fill(config.output, inputs, identity, make_work, started=started)


def load(config: ClassifyConfig, inputs: Sequence[File]) -> tuple[Classification, str, str]:
    """The classifier of a config, its architecture's name, and the SHA-256 of its weights.

    Raises:
        FileNotFoundError, ValueError: as :func:`classify`.
    """
    uri, name = config.checkpoint, config.architecture
    num_crops = 1 if config.crops == "single" else 10
    if name is None:
        source = models.load(uri, encoder=None, class_names=list)
        loaded = source.loaded
        if loaded.method not in ("classifier", "bridging"):
            raise CheckpointError(
                f"{source.uri}: a checkpoint of method {loaded.method!r}, which knows no classes"
            )
        model, spec = models.filled(loaded, source.uri), _trained_spec(loaded)
        classification = Classification(model, loaded.classes, _sized(config, spec), num_crops)
        return classification, loaded.encoder, source.sha256
    is_published = is_weights_name(uri) and not storage.exists(uri)
    spec = torchvision_classifiers.input_spec(name, uri if is_published else "DEFAULT")
    state, sha256 = models.read_weights(uri, name)
    try:
        found = torchvision_classifiers.load_classifier(name, state)
    except WeightsError as error:
        raise CheckpointError(f"{uri}: {error}") from error
    needed_by = f"--class-names {models.SHARD_LABELS}"
    names = models.find_class_names(
        config.class_names, uri, name, lambda: list(labels.count(inputs, needed_by=needed_by))
    )
    models.check_class_names(uri, names, found.num_classes)
    return Classification(found.model, names, _sized(config, spec), num_crops), name, sha256


def _trained_spec(loaded: Checkpoint) -> InputSpec:
    """What a classifier of this package was trained on."""
    try:
        resize_px = json.loads(loaded.config)["data"]["resize_px"]
    except (ValueError, KeyError, TypeError):
        resize_px = None
    if not isinstance(resize_px, int) or resize_px < loaded.crop_px:
        resize_px = loaded.crop_px * 256 // 224
    return InputSpec(resize_px, loaded.crop_px, encoders.MEAN, encoders.STD)


def _sized(config: ClassifyConfig, spec: InputSpec) -> InputSpec:
    resize_px = config.resize_px or spec.resize_px
    crop_px = config.crop_px or spec.crop_px
    if crop_px > resize_px:
        raise ValueError(f"crop_px must be <= resize_px ({resize_px}), got {crop_px}")
    return spec._replace(resize_px=resize_px, crop_px=crop_px)


def _resolve(config: ClassifyConfig, spec: InputSpec) -> ClassifyConfig:
    """The config with what the classifier decides filled in and local paths made absolute."""
    is_name = config.architecture is not None and is_weights_name(config.checkpoint)
    is_file = config.class_names not in ("", models.SHARD_LABELS)
    usual = "squeeze" if config.architecture is None else "middle"
    return dataclasses.replace(
        config,
        resize_px=spec.resize_px,
        crop_px=spec.crop_px,
        resize=usual if config.resize == "auto" else config.resize,
        checkpoint=config.checkpoint if is_name else storage.absolute(config.checkpoint),
        class_names=storage.absolute(config.class_names) if is_file else config.class_names,
        input=tuple(storage.absolute(uri) for uri in config.input),
        output=storage.absolute(config.output),
    )
