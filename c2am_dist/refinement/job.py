"""Class activation maps + background cues -> pseudo masks: a file a shard, by a task each.

As label files, each appears whole or not at all, and its rows follow from its shard and what
belongs to it. So the same command goes on where a job was cut off, and ``_SUCCESS`` ends the set.
"""

import dataclasses
import hashlib
import json
import time
from collections import deque
from collections.abc import Sequence

import ray
from tqdm import tqdm

from c2am_dist import __version__, storage
from c2am_dist.config import RefineConfig, digest, to_json
from c2am_dist.data import label_map_files, label_set, mask_sets, row_files
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.row_files import LabelReport, PlannedFile
from c2am_dist.method import crf
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.refinement import inputs, sources
from c2am_dist.refinement.masks import Refinement
from c2am_dist.refinement.rows import Work, refine_shard
from c2am_dist.refinement.sources import Source
from c2am_dist.storage import File

MAPS_SUFFIX, CUES_SUFFIX = ".npy", ".png"
PNG_FOLDER = "png"
"""Below the output."""
TASKS_IN_LINE = 1000
"""Handed to Ray at once where nothing bounds their number: it runs as many as there are CPUs."""


def refine(config: RefineConfig) -> LabelReport:
    """Writes one file of pseudo masks for each shard; needs a connection to Ray.

    A job that was cut off goes on: finished files stay as they are.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a field is missing, the extra ``crf`` is needed and not there, an input cannot
            be read or does not belong to the images, an image_id comes twice, a class is not in
            the label map, or the output holds other files or those of another job; the message
            names the culprit.
    """
    started = time.monotonic()
    config.check_complete()
    if config.refinement == "crf":
        crf.check_installed()
    images = storage.expand(config.images)
    classes = inputs.shard_classes(images, config.images)
    label_map = label_map_files.read(config.label_map)
    incomplete = config.allow_incomplete
    maps = sources.find(
        config.maps,
        images,
        column="class_maps",
        suffix=MAPS_SUFFIX,
        allow_incomplete=incomplete,
    )
    cues = None
    if config.cues:
        cues = sources.find(
            config.cues,
            images,
            column="background_cue",
            suffix=CUES_SUFFIX,
            allow_incomplete=incomplete,
        )
    inputs.check_classes(classes, label_map)
    inputs.check_classes(inputs.map_classes(maps.label_files.values()), label_map)
    same = _resolve(config)
    identity = _identity(images, maps, cues, label_map, same)
    work = _work(config, same, maps, cues, label_map)
    label_set.begin(config.output, identity)
    storage.sweep(config.output)
    return _fill(config, images, maps, cues, work, identity, started=started)


def _resolve(config: RefineConfig) -> RefineConfig:
    """The config with local paths made absolute, without what changes no row."""
    is_file = config.label_map not in ("voc", "coco")
    uris = {
        name: tuple(storage.absolute(uri) for uri in getattr(config, name))
        for name in ("maps", "cues", "images")
    }
    return dataclasses.replace(
        config,
        **uris,
        label_map=storage.absolute(config.label_map) if is_file else config.label_map,
        output="",
        num_tasks=None,
        max_error_fraction=1.0,
        allow_incomplete=False,
    )


def _identity(
    images: Sequence[File],
    maps: Source,
    cues: Source | None,
    label_map: LabelMap,
    same: RefineConfig,
) -> dict[str, str]:
    """What must be the same for a job to go on with a folder: its rows would differ else."""
    listing = "".join(f"{file.uri} {file.size_bytes}\n" for file in images)
    meaning = json.dumps([label_map.names, label_map.published_ids])
    identity = {
        "maps_sha256": maps.sha256,
        "maps_listing_sha256": maps.listing_sha256,
        "config_sha256": digest(same),
        "input_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "label_map_sha256": hashlib.sha256(meaning.encode()).hexdigest(),
        "package_version": __version__,
    }
    if cues is not None:
        identity |= {"cues_sha256": cues.sha256, "cues_listing_sha256": cues.listing_sha256}
    return identity


def _work(
    config: RefineConfig, same: RefineConfig, maps: Source, cues: Source | None, label_map: LabelMap
) -> Work:
    background = "threshold" if cues is None else "cue"
    digests = {"maps_sha256": maps.sha256, "config_sha256": digest(same)}
    if cues is not None:
        digests["cues_sha256"] = cues.sha256
    metadata = digests | {
        "method": f"{maps.method}+{background}",
        "config": to_json(same),
        "package_version": __version__,
    }
    how = Refinement(
        label_map=label_map,
        threshold=config.threshold,
        kind=config.refinement,
        guided_radius_px=config.guided_radius_px,
        guided_epsilon=config.guided_epsilon,
        max_pixels=config.max_megapixels * 1e6,
    )
    common = digests | {"background": background, "package_version": __version__}
    return Work(
        how=how,
        common=common | {"threshold": config.threshold, "refinement": config.refinement},
        metadata={f"c2am_dist.{key}": value for key, value in metadata.items()}
        | mask_sets.to_metadata(label_map),
        png_folder=storage.join(storage.absolute(config.output), PNG_FOLDER)
        if config.write_png
        else "",
    )


def _fill(
    config: RefineConfig,
    images: Sequence[File],
    maps: Source,
    cues: Source | None,
    work: Work,
    identity: dict[str, str],
    *,
    started: float,
) -> LabelReport:
    """Writes the files that are missing, and ``_SUCCESS``."""
    finished = label_set.sealed(config.output)
    if finished is not None:
        print(f"{config.output}: already finished", flush=True)
        return row_files.report(finished, num_new=0, started=started)
    planned = row_files.plan(images, config.output)
    done, missing = row_files.split_done(planned)
    if done:
        print(f"{len(done)} of {len(planned)} files are there already", flush=True)
    files = row_files.check(done, work.metadata)
    new = _refine_shards(missing, maps, cues, work, config.num_tasks or TASKS_IN_LINE)
    files += new
    label_set.seal(config.output, identity, sorted(files, key=lambda file: file.name))
    num_new = sum(file.num_rows for file in new)
    return row_files.report(files, num_new=num_new, started=started)


def _refine_shards(
    missing: Sequence[PlannedFile], maps: Source, cues: Source | None, work: Work, at_once: int
) -> list[LabelFile]:
    waiting, running, written = deque(missing), list[ray.ObjectRef](), list[LabelFile]()
    shared = ray.put(work)
    with tqdm(total=len(missing), unit=" files", disable=None) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    file = waiting.popleft()
                    own_cues = None if cues is None else cues.of_shard(file.shard)
                    args = (file, maps.of_shard(file.shard), own_cues, shared)
                    running.append(refine_shard.remote(*args))
                ready, running = ray.wait(running)
                written += ray.get(ready)
                progress.update(len(ready))
        finally:  # of others' work nothing is wanted where one is refused
            for ref in running:
                ray.cancel(ref)
    return written
