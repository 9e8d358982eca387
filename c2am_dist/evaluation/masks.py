"""Pseudo masks or background cues + annotated masks -> mIoU and its parts.

Tasks read and decode some hundred pairs each and return counts; the driver merges them. It holds
the ids of both sides and where each mask lies. No mask leaves the task that reads it.
"""

import dataclasses
import json
import logging
import pickle
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import ray

from c2am_dist import __version__, names, storage
from c2am_dist.config import EvaluateMasksConfig, to_json
from c2am_dist.data import label_map_files
from c2am_dist.evaluation import class_chart, classes, mask_figures, mask_inputs
from c2am_dist.evaluation.figures import Metrics
from c2am_dist.evaluation.job import markdown, uri_of_table
from c2am_dist.evaluation.mask_inputs import UNIT_IMAGES, Joined, MaskSet, Place
from c2am_dist.evaluation.mask_tally import MaskTally, Scoring
from c2am_dist.method.confusion import IGNORED

FORMAT = 1
"""Of the file of classes; raised whenever it changes meaning."""
BASELINE = "baseline"
"""What the metrics call the other masks."""
_IN_FLIGHT = 256
"""Tasks handed to Ray at once."""
_NEEDS_BINARY = "--foreground-only"

logger = logging.getLogger(__name__)


class Unit(NamedTuple):
    """Some images: where their masks and their annotations lie."""

    image_ids: list[str]
    masks: list[Place]
    annotations: list[Place]


class Scored(NamedTuple):
    """A set of masks and what was counted of it."""

    masks: MaskSet
    joined: Joined
    tally: MaskTally


def evaluate_masks(config: EvaluateMasksConfig) -> Metrics:
    """Scores masks, writes JSON and Markdown tables (and a picture), returns the metrics.

    An image is scored when it has a mask, or a row that says why not, and an annotated mask; a
    row with an error counts as all background. What is left out is counted: annotated images
    without mask (``num_missing``), masks without annotation (``num_extra``), images without
    annotated mask (``num_without_mask``). Needs a connection to Ray.

    Raises:
        FileNotFoundError: an input URI names nothing.
        ValueError: a field is not given, a set is unfinished, ids of masks and annotations mean
            different classes, a mask cannot be read, is in colour, of another size or holds an
            id that is no class, a baseline is of other images, or nothing can be scored; the
            message names the culprit.
    """
    config.check_complete()
    annotations = mask_inputs.read_annotations(
        [storage.absolute(uri) for uri in config.annotations]
    )
    masks = _read(config, config.masks)
    baseline = _read(config, config.baseline) if config.baseline else None
    scoring = _scoring(config, masks, baseline)
    scored = _score(masks, mask_inputs.join(masks, annotations), annotations, scoring)
    metrics = {masks.method: _figures(masks.method, scored, annotations, scoring)}
    beside = None
    if baseline is not None:
        joined = mask_inputs.join(baseline, annotations)
        _refuse_other_images(scored.joined, joined, baseline, annotations)
        beside = _score(baseline, joined, annotations, scoring)
        metrics[BASELINE] = _figures(BASELINE, beside, annotations, scoring)
    rows = mask_figures.by_class(scored.tally, scoring.classes, beside and beside.tally)
    if beside is not None:
        metrics[masks.method] |= _count_gains(rows)
    _write(config, metrics, rows)
    return metrics


def _read(config: EvaluateMasksConfig, uris: tuple[str, ...]) -> MaskSet:
    absolute = [storage.absolute(uri) for uri in uris]
    return mask_inputs.read_masks(absolute, allow_incomplete=config.allow_incomplete)


def _scoring(config: EvaluateMasksConfig, masks: MaskSet, baseline: MaskSet | None) -> Scoring:
    label_map = label_map_files.read(config.label_map)
    is_binary = config.foreground_only or config.agreement_masks or masks.is_cue
    if baseline is not None and baseline.is_cue and not is_binary:
        raise ValueError(
            f"{', '.join(baseline.uris)}: background cues are compared with masks of foreground "
            f"alone ({_NEEDS_BINARY})"
        )
    for each in filter(None, (masks, baseline)):
        if each.label_names not in (None, label_map.names) and not is_binary:
            raise ValueError(
                f"{', '.join(each.uris)}: its ids mean other classes than those of --label-map "
                f"{config.label_map}: {_difference(each.label_names or (), label_map.names)}"
            )
    return Scoring(
        label_map=label_map,
        num_ids=len(label_map),
        is_binary=is_binary,
        is_agreement=config.agreement_masks,
    )


def _of_set(scoring: Scoring, masks: MaskSet) -> Scoring:
    """How one set of masks is compared: of two classes its own label map may be another."""
    if masks.label_names is not None:
        return dataclasses.replace(scoring, num_ids=len(masks.label_names))
    # Grey levels say nothing of the masks' ids.
    return dataclasses.replace(scoring, num_ids=IGNORED) if scoring.is_agreement else scoring


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return f"{i} is {mine!r} there and {other!r} here"
    return f"{len(ours)} there and {len(theirs)} here, with the background"


def _score(masks: MaskSet, joined: Joined, annotations: MaskSet, scoring: Scoring) -> Scored:
    tally, running = MaskTally.empty(len(scoring.classes)), deque[ray.ObjectRef]()
    own = _of_set(scoring, masks)
    try:
        for unit in _units(masks, joined, annotations):
            args = (unit, masks.column, annotations.column, own)
            running.append(_score_unit.remote(*args))
            if len(running) > _IN_FLIGHT:
                tally = tally.merge(pickle.loads(ray.get(running.popleft())))
        while running:
            tally = tally.merge(pickle.loads(ray.get(running.popleft())))
    finally:  # of the others nothing is wanted where one fails
        for ref in running:
            ray.cancel(ref)
    if tally.num_images == 0 or not tally.confusion.counts.any():
        raise ValueError(
            f"{', '.join(annotations.uris)}: no pixel of a scored image is annotated "
            f"({tally.num_without_mask} images have no mask)"
        )
    return Scored(masks, joined, tally)


def _units(masks: MaskSet, joined: Joined, annotations: MaskSet) -> Iterator[Unit]:
    for start in range(0, len(joined.masks), UNIT_IMAGES):
        own = slice(start, start + UNIT_IMAGES)
        yield Unit(
            masks.ids.take(pa.array(joined.masks[own])).to_pylist(),
            [masks.place(number) for number in joined.masks[own]],
            [annotations.place(number) for number in joined.annotations[own]],
        )


@ray.remote(num_cpus=1, retry_exceptions=[OSError])  # type: ignore
def _score_unit(unit: Unit, column: str, note_column: str, scoring: Scoring) -> bytes:
    """The pickled tally of one unit."""
    cv2.setNumThreads(1)  # tasks share the cores among themselves
    return pickle.dumps(tally_unit(unit, column, note_column, scoring))


def tally_unit(unit: Unit, column: str, note_column: str, scoring: Scoring) -> MaskTally:
    """Counts the images of a unit.

    Args:
        unit: where they are.
        column: of the masks; empty for PNG files.
        note_column: of the annotations, likewise.
        scoring: how they are compared.

    Raises:
        ValueError: as :meth:`MaskTally.add`; the message names the image, too.
    """
    tally = MaskTally.empty(len(scoring.classes))
    found = mask_inputs.read_encoded(unit.masks, column)
    notes = mask_inputs.read_encoded(unit.annotations, note_column)
    is_cue = column == "background_cue"
    for image_id, mask, note in zip(unit.image_ids, found, notes, strict=True):
        try:
            tally.add(mask, note, scoring, is_cue=is_cue)
        except ValueError as error:
            raise ValueError(f"image {image_id!r}: {error}") from error
    return tally


def _figures(name: str, scored: Scored, annotations: MaskSet, scoring: Scoring) -> dict[str, float]:
    masks, joined = scored.masks, scored.joined
    found = mask_figures.summarise(scored.tally, is_binary=scoring.is_binary, is_cue=masks.is_cue)
    if joined.num_missing or joined.num_extra:
        logger.warning(
            "%s: %d of %d annotated images have no mask, and %d of %d masks no annotation; they "
            "are left out",
            *(name, joined.num_missing, len(annotations.ids), joined.num_extra, len(masks.ids)),
        )
    return found | {"num_missing": joined.num_missing, "num_extra": joined.num_extra}


def _refuse_other_images(
    ours: Joined, theirs: Joined, baseline: MaskSet, annotations: MaskSet
) -> None:
    """Raises ValueError naming an image that is scored in one set alone."""
    alone = np.setxor1d(ours.annotations, theirs.annotations)
    if len(alone):
        raise ValueError(
            f"{', '.join(baseline.uris)}: the baseline must be of the same images; "
            f"{len(alone)}, such as {annotations.ids[int(alone[0])].as_py()!r}, are in one set "
            "alone"
        )


def _count_gains(rows: list[classes.Row]) -> dict[str, float]:
    gains = [mask_figures.gain(row) for row in rows]
    return {
        "num_classes_gaining": sum(value > 0 for value in gains),
        "num_classes_losing": sum(value < 0 for value in gains),
    }


def _write(config: EvaluateMasksConfig, metrics: Metrics, rows: list[classes.Row]) -> None:
    """Writes the metrics last, since other tools look for them."""
    base = config.output.removesuffix(".json")
    content: dict[str, Any] = {
        "format": FORMAT,
        "package_version": __version__,
        "config": json.loads(to_json(config)),
        "classes": rows,
    }
    storage.write_bytes(f"{base}.classes.json", (json.dumps(content, indent=1) + "\n").encode())
    storage.write_bytes(f"{base}.classes.md", _class_table(rows).encode())
    if config.baseline:
        title = "IoU of each class: points gained over the baseline"
        there = [row for row in rows if row["gain"] is not None]
        gains = [(str(row["class"]), mask_figures.gain(row)) for row in there]
        drawn = class_chart.draw(gains, title)
        storage.write_bytes(f"{base}.classes.svg", drawn.encode())
    storage.write_bytes(uri_of_table(config.output), markdown(metrics).encode())
    storage.write_bytes(config.output, (json.dumps(metrics, indent=2) + "\n").encode())


def _class_table(rows: list[classes.Row]) -> str:
    """The classes as Markdown; with a baseline, what gains and what loses is said above."""
    table = classes.markdown(rows)
    if "gain" not in rows[0]:
        return table
    gaining = [row for row in rows if mask_figures.gain(row) > 0]
    losing = [row for row in reversed(rows) if mask_figures.gain(row) < 0]
    lines = []
    for verb, found in (("gain", gaining), ("lose", losing)):
        listed = ", ".join(names.printable(str(row["class"])) for row in found)
        lines.append(f"Classes that {verb}: {len(found)}" + (f" ({listed})." if found else "."))
    return "\n\n".join([*lines, table])
