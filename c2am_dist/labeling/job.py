"""Labels for every image of a set: pseudo boxes, activation maps and background cues.

Each shard gets one label file under the same relative path, with its rows in the same order,
and the file appears whole or not at all. So what is done can be seen in the folder: the same
command again labels the shards that have no file yet, and ``_SUCCESS`` ends the set. Shards
are labeled in lots of some thousand: of a set, the driver holds one entry a shard.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import ray

from c2am_dist import __version__, checkpoint, storage
from c2am_dist.assumptions import PlanConfig
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import LabelConfig, digest, to_json
from c2am_dist.data import label_set, shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.forecast import Cluster, Forecast, ImageSet
from c2am_dist.labeling import pipeline, write
from c2am_dist.labeling.stages import Provenance
from c2am_dist.labeling.write import PlannedFile
from c2am_dist.method.activation import Polarity, doubts
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder
from c2am_dist.storage import File

logger = logging.getLogger(__name__)

FOOTERS_AT_ONCE = 16
"""Read at once; over the network they are latency, not work."""
SAMPLED_SHARDS = 2000
"""Footers that a dry run reads at most."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """How a labeling job went."""

    num_images: int
    num_new: int
    """Of these, the images labeled now and not by an earlier job that was cut off."""
    num_errors: int
    """Images that could not be labeled; their rows say why."""
    num_files: int
    elapsed_s: float

    @property
    def error_fraction(self) -> float:
        return self.num_errors / self.num_images


def label(config: LabelConfig) -> LabelReport:
    """Writes one label file for each shard of the input; needs a connection to Ray.

    A job that was cut off goes on: finished label files stay as they are.

    Raises:
        FileNotFoundError: the checkpoint, the input or a stored threshold is not there.
        ValueError: a field is missing, a shard cannot be read, the output holds other files or
            labels of another job, or the checkpoint is no C2AM model; the message names the URI.
    """
    started = time.monotonic()
    config.check_complete()
    inputs = storage.expand(config.input)
    _refuse_empty(inputs, config.input)
    folder = checkpoint.find(config.checkpoint)
    loaded, sha256 = checkpoint.load(folder)
    model = load_model(loaded, folder)
    config = _resolve(config, loaded)
    provenance = _provenance(config, folder, loaded, sha256)
    identity = _identity(provenance, inputs)
    label_set.begin(config.output, identity)
    storage.sweep(config.output)
    finished = label_set.sealed(config.output)
    if finished is not None:
        print(f"{config.output}: already finished", flush=True)
        return _report(finished, num_new=0, started=started)
    planned = write.plan(inputs, config.output)
    done, missing = write.split_done(planned)
    if done:
        print(f"{len(done)} of {len(planned)} label files are there already", flush=True)
    files = write.check(done, provenance)
    new = _label_lots(missing, config, provenance, ray.put(model)) if missing else []
    files += new
    label_set.seal(config.output, identity, sorted(files, key=lambda file: file.name))
    return _report(files, num_new=sum(file.num_rows for file in new), started=started)


def _label_lots(
    missing: Sequence[PlannedFile],
    config: LabelConfig,
    provenance: Provenance,
    model: "ray.ObjectRef[C2AM]",
) -> list[LabelFile]:
    """Labels shards, lot by lot; the footers of a lot are read while the one before is labeled."""
    size = pipeline.lot_shards(pipeline.find_resources(config).num_actors)
    lots = [missing[start : start + size] for start in range(0, len(missing), size)]
    pool, written = ThreadPoolExecutor(FOOTERS_AT_ONCE), []
    try:
        reading = [pool.submit(write.index, file) for file in lots[0]]
        for lot, following in zip(lots, [*lots[1:], []], strict=True):
            row_groups = [group for done in reading for group in done.result()]
            reading = [pool.submit(write.index, file) for file in following]
            written += write.label_shards(lot, row_groups, config, provenance, model)
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def dry_run(config: LabelConfig, plan: PlanConfig, cluster: Cluster) -> Forecast:
    """What :func:`label` has still to do: reads footers and the checkpoint, and writes nothing.

    Raises:
        FileNotFoundError, ValueError: as :func:`label`, for the input and the checkpoint.
    """
    config.check_complete()
    inputs = storage.expand(config.input)
    loaded, _ = checkpoint.load(config.checkpoint)
    config = _resolve(config, loaded)
    _, missing = write.split_done(write.plan(inputs, config.output))
    uris = {file.shard for file in missing}
    images = _image_set([file for file in inputs if file.uri in uris])
    return pipeline.forecast(images, config, loaded.encoder, plan, cluster)


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


def _report(files: Sequence[LabelFile], *, num_new: int, started: float) -> LabelReport:
    return LabelReport(
        num_images=sum(file.num_rows for file in files),
        num_new=num_new,
        num_errors=sum(file.num_errors for file in files),
        num_files=len(files),
        elapsed_s=time.monotonic() - started,
    )


def _refuse_empty(files: Sequence[File], uris: Sequence[str]) -> None:
    if not any(shards.index([file.uri], allow_empty=True) for file in files):
        raise ValueError(f"{', '.join(uris)}: the shards hold no image")


def _identity(provenance: Provenance, inputs: Sequence[File]) -> dict[str, str]:
    """What must be the same for a job to go on with a folder: its rows would differ else."""
    listing = "".join(f"{file.uri} {file.size_bytes}\n" for file in inputs)
    return {
        "checkpoint_sha256": provenance.checkpoint_sha256,
        "config_sha256": provenance.config_sha256,
        "input_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "package_version": __version__,
        # An evaluation may have stored another one since: the config says "auto" either way.
        "threshold": f"{provenance.threshold_source} {provenance.threshold}",
    }


def load_model(loaded: Checkpoint, uri: str) -> C2AM:
    """The checkpoint's model in evaluation mode.

    Raises:
        CheckpointError: it holds another method or architecture; names the URI.
    """
    if loaded.method != "c2am":
        raise CheckpointError(f"{uri}: method {loaded.method!r} has no activation map to label by")
    try:
        model = C2AM(build_encoder(loaded.encoder))
        model.load_state_dict(loaded.model)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{uri}: the weights are not those of a C2AM with {loaded.encoder}: {error}"
        ) from error
    return model.eval()


def _resolve(config: LabelConfig, loaded: Checkpoint) -> LabelConfig:
    """The config with what the checkpoint decides filled in and local paths made absolute."""
    return dataclasses.replace(
        config,
        size_px=config.size_px or loaded.crop_px,
        checkpoint=storage.absolute(config.checkpoint),
        input=tuple(storage.absolute(uri) for uri in config.input),
        output=storage.absolute(config.output),
    )


def _provenance(config: LabelConfig, folder: str, loaded: Checkpoint, sha256: str) -> Provenance:
    for doubt in doubts(loaded.polarity_margin, loaded.border_lock):
        logger.warning("%s: %s", folder, doubt)
    threshold, source = _threshold(config, folder)
    # Where rows go, how many actors make them and how many may fail changes nothing in them.
    config = dataclasses.replace(
        config, output="", num_actors=None, use_gpu=None, max_error_fraction=1.0
    )
    return Provenance(
        method=loaded.method,
        threshold=threshold,
        threshold_source=source,
        polarity=Polarity(loaded.polarity),
        polarity_margin=loaded.polarity_margin,
        checkpoint_sha256=sha256,
        config_json=to_json(config),
        config_sha256=digest(config),
    )


def _threshold(config: LabelConfig, folder: str) -> tuple[float | None, str]:
    """The threshold for all images, or None for one each, and how it is chosen."""
    if not isinstance(config.threshold, str):
        return config.threshold, "given"
    uri = storage.join(folder, "threshold.json")
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
