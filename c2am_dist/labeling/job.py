"""Labels for every image of a set: pseudo boxes, activation maps and background cues.

What the method says is decided here; the folder is filled by folder.py.
"""

import dataclasses
import functools
import logging
import time
from collections import Counter
from collections.abc import Sequence

import ray
import torch

from c2am_dist import __version__, schema, storage
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import LabelConfig, digest, to_json
from c2am_dist.data import row_files, shards
from c2am_dist.forecast import Cluster, Forecast, ImageSet
from c2am_dist.labeling import descriptors, folder, labels, localizers, models, pipeline
from c2am_dist.labeling.actors import ModelActor
from c2am_dist.labeling.decode import Decoding
from c2am_dist.labeling.descriptors import decoding_of
from c2am_dist.labeling.folder import LabelReport
from c2am_dist.labeling.models import Source
from c2am_dist.labeling.pipeline import Work
from c2am_dist.labeling.rows import DDT_RULE, Provenance, label_rows
from c2am_dist.method import crf
from c2am_dist.method.activation import doubts
from c2am_dist.method.ddt import MIN_IMAGES
from c2am_dist.method.flops import forward_flops
from c2am_dist.method.weights import is_weights_name
from c2am_dist.storage import File

logger = logging.getLogger(__name__)

SAMPLED_SHARDS = 2000
"""Footers that a dry run reads at most."""


def label(config: LabelConfig) -> LabelReport:
    """Writes one label file for each shard of the input; needs a connection to Ray.

    A job that was cut off goes on: finished label files stay as they are.

    Raises:
        FileNotFoundError: the checkpoint, the input or a stored threshold is not there.
        ValueError: a field is missing or asks for what the method cannot do, a shard cannot be
            read or lacks the labels that the method needs, the output holds other files or labels
            of another job, or the checkpoint is of another method; the message names the URI.
    """
    started = time.monotonic()
    config.check_complete()
    inputs = storage.expand(config.input)
    folder.refuse_empty(inputs, config.input)
    source = load_source(config, inputs)
    config = _resolve(config, source)
    if config.refine_cues == "crf":
        crf.check_installed()
    counts = _check_labels(config, source, inputs)
    model = models.filled(source.loaded, source.uri)
    provenance = _provenance(config, source)
    identity = folder.identity_of(
        inputs,
        checkpoint_sha256=provenance.checkpoint_sha256,
        config_sha256=provenance.config_sha256,
    )
    # An evaluation may have stored another one since: the config says "auto" either way.
    identity["threshold"] = f"{provenance.threshold_source} {provenance.threshold}"

    def make_work() -> Work:
        decoding = decoding_of(config, localizers.labels_column(config, source.loaded))
        if config.method != "ddt":
            localizer = localizers.build(config, source.loaded, model)
            return _work(config, provenance, decoding, localizer, {})
        uris = [file.uri for file in inputs]
        found, sha256 = descriptors.find(config, model.encoder, uris, counts)
        ddt = localizers.DDTLocalizer(model.encoder, found.by_class, found.reasons)
        return _work(config, provenance, decoding, ddt, {"c2am_dist.ddt_sha256": sha256})

    return folder.fill(config.output, inputs, identity, make_work, started=started)


def load_source(config: LabelConfig, inputs: Sequence[File]) -> Source:
    """The model of a config; raises as :func:`models.load`."""

    def shard_labels() -> Sequence[str]:
        return list(labels.count(inputs, needed_by=f"--class-names {models.SHARD_LABELS}"))

    def class_names() -> Sequence[str]:
        assert config.encoder is not None
        return models.find_class_names(
            config.class_names, config.checkpoint, config.encoder, shard_labels
        )

    return models.load(
        config.checkpoint,
        encoder=config.encoder,
        class_names=None if config.method == "ddt" else class_names,
    )


def _check_labels(
    config: LabelConfig, source: Source, inputs: Sequence[File]
) -> Counter[str] | None:
    """The images of each class where the method needs to know; refuses shards that do not say."""
    column = localizers.labels_column(config, source.loaded)
    if column == "none":
        return None
    if config.method != "ddt":
        needed_by = "--classes true (there is --classes predicted)"
        labels.refuse_unknown(inputs, source.loaded.classes, column=column, needed_by=needed_by)
        return None
    counts = labels.count(inputs, needed_by="--ddt-scope class (there is --ddt-scope set)")
    lone = sorted(name for name, number in counts.items() if number < MIN_IMAGES)
    if lone:
        raise ValueError(
            f"{', '.join(config.input)}: class {lone[0]!r} has a single image, as have {len(lone)} "
            f"of {len(counts)} classes; DDT finds what the images of a class have in common "
            "(--ddt-scope set takes all images together)"
        )
    return counts


def _work(
    config: LabelConfig,
    provenance: Provenance,
    decoding: Decoding,
    localizer: localizers.Localizer,
    digests: dict[str, str],
) -> Work:
    metadata = {
        "c2am_dist.method": provenance.method,
        "c2am_dist.config": provenance.config_json,
        "c2am_dist.checkpoint_sha256": provenance.checkpoint_sha256,
        "c2am_dist.config_sha256": provenance.config_sha256,
        "c2am_dist.package_version": __version__,
    }
    return Work(
        decoding=decoding,
        actor=ModelActor,
        arguments=(ray.put(localizer), config),
        rows=functools.partial(label_rows, config=config, provenance=provenance),
        schema=schema.LABELS,
        metadata=metadata | digests,
        shares=config,
        keeps_row_groups=config.write_cues != "none",
        has_slow_rows=config.refine_cues != "none",
    )


def dry_run(config: LabelConfig, plan: PlanConfig, cluster: Cluster) -> Forecast:
    """What :func:`label` has still to do: reads footers and the checkpoint, and writes nothing.

    Raises:
        FileNotFoundError, ValueError: as :func:`label`, for the input and the checkpoint.
    """
    config.check_complete()
    inputs = storage.expand(config.input)
    source = load_source(config, inputs)
    config = _resolve(config, source)
    _, missing = row_files.split_done(row_files.plan(inputs, config.output))
    uris = {file.shard for file in missing}
    images = _image_set([file for file in inputs if file.uri in uris])
    with torch.device("meta"):
        model = models.build(source.loaded).to("meta")
    num_passes = 2 if config.method == "ddt" and missing else 1

    def flops_of(size_px: int) -> float:
        return num_passes * forward_flops(model, size_px)

    return pipeline.forecast(
        images, config, source.loaded.encoder, plan, cluster, flops_of=flops_of
    )


def _image_set(files: Sequence[File], *, at_most: int = SAMPLED_SHARDS) -> ImageSet:
    """The images of shards; where these are many, estimated by size from ``at_most`` of them."""
    sample = files[:: -(-len(files) // at_most) or 1]
    row_groups = shards.index([file.uri for file in sample], allow_empty=True)
    num_rows = sum(group.num_rows for group in row_groups)
    num_bytes = sum(group.num_bytes for group in row_groups)
    # An integer ratio, so that a sample of everything gives the exact numbers.
    whole, part = (sum(file.size_bytes for file in some) or 1 for some in (files, sample))
    return ImageSet(
        num_images=num_rows * whole // part,
        num_bytes=num_bytes * whole // part,
        image_bytes=num_bytes / (num_rows or 1),
        num_files=len(files),
    )


def _resolve(config: LabelConfig, source: Source) -> LabelConfig:
    """The config with what the checkpoint decides filled in and local paths made absolute."""
    is_name = config.encoder is not None and is_weights_name(config.checkpoint)
    is_file = config.class_names not in ("", models.SHARD_LABELS)
    return dataclasses.replace(
        config,
        method=localizers.choose(config, source),
        size_px=config.size_px or source.loaded.crop_px,
        checkpoint=config.checkpoint if is_name else storage.absolute(config.checkpoint),
        class_names=storage.absolute(config.class_names) if is_file else config.class_names,
        input=tuple(storage.absolute(uri) for uri in config.input),
        output=storage.absolute(config.output),
    )


def _provenance(config: LabelConfig, source: Source) -> Provenance:
    loaded, is_c2am = source.loaded, config.method == "c2am"
    for doubt in doubts(loaded.polarity_margin, loaded.border_lock) if is_c2am else ():
        logger.warning("%s: %s", source.uri, doubt)
    threshold, threshold_source = _threshold(config, source.uri)
    # Where rows go, how many actors make them and how many may fail changes nothing in them.
    config = dataclasses.replace(
        config, output="", num_actors=None, use_gpu=None, max_error_fraction=1.0
    )
    return Provenance(
        method=config.method,
        threshold=threshold,
        threshold_source=threshold_source,
        polarity=loaded.polarity if is_c2am else None,
        polarity_margin=loaded.polarity_margin if is_c2am else None,
        checkpoint_sha256=source.sha256,
        config_json=to_json(config),
        config_sha256=digest(config),
    )


def _threshold(config: LabelConfig, folder: str) -> tuple[float | None, str]:
    """The threshold for all images, or None for one each, and how it is chosen."""
    if not isinstance(config.threshold, str):
        return config.threshold, "given"
    uri = storage.join(folder, "threshold.json")
    if config.method == "psol":
        return None, ""
    if config.threshold == "auto" and config.method == "ddt":
        return 0.0, DDT_RULE  # whatever an evaluation found for the checkpoint's own method
    if config.threshold == "otsu" or (config.threshold == "auto" and not storage.exists(uri)):
        return None, "otsu"
    try:
        stored = storage.read_json(uri)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri}: no evaluation stored a threshold (jobs/evaluate.py --store-threshold)"
        ) from error
    try:
        threshold = float(stored["threshold"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{uri}: holds no threshold ({error!r})") from error
    if not 0 <= threshold < 1:
        raise ValueError(f"{uri}: the threshold must be in [0, 1), got {threshold}")
    return threshold, "evaluation"
