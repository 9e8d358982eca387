"""Labels + annotations -> metrics, for the activation maps and for the centred box.

Ray Data tasks read and score some hundred label rows each and return counts; the driver
merges them. It holds the ids of all labels and the ids, sizes and boxes of all annotations,
about 100 bytes an image (150 MB for ImageNet's 1.3 million), which tasks read from the
object store. Maps and masks never leave the task that reads them.
"""

import dataclasses
import functools
import json
import pickle
from typing import Any

import cv2
import numpy as np
import ray
import ray.data

from c2am_dist import storage
from c2am_dist.config import EvaluateConfig
from c2am_dist.evaluation import curves, inputs
from c2am_dist.evaluation.inputs import Annotations, Unit
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method.contours import compile_scan
from c2am_dist.method.metrics import (
    CENTRE_SIDES,
    IOU_LEVELS,
    THRESHOLDS,
    HitCounts,
    held_out_accuracy,
    oracle_accuracy,
)

Metrics = dict[str, dict[str, float]]
"""Method -> metric -> percentage, threshold, side or count."""
_HALF = IOU_LEVELS.index(0.5)


def evaluate(config: EvaluateConfig) -> Metrics:
    """Scores labels, writes JSON, a Markdown table and curves beside it, returns the metrics.

    An image is scored when it has a label row and at least one annotated box; a row with an
    error counts as wrong. What is left out is counted: annotated images without label row
    (``num_missing``), rows without annotation (``num_extra``), images without annotated box
    (``num_without_boxes``). Needs a connection to Ray.

    Raises:
        FileNotFoundError: an input URI names nothing.
        ValueError: a field is not given, a file lacks a column or has it in another type,
            an id comes twice, or nothing can be scored; the message names the culprit.
    """
    for name in ("labels", "annotations", "output"):
        if not getattr(config, name):
            raise ValueError(f"{name} must be given (--{name} URI)")
    units, ids = inputs.plan(
        [storage.absolute(uri) for uri in config.labels], allow_incomplete=config.allow_incomplete
    )
    annotations = inputs.read_annotations([storage.absolute(uri) for uri in config.annotations])
    known = annotations.table["image_id"]
    tally = _score(units, annotations)
    if tally.num_images == 0:
        raise ValueError(
            f"no row of {', '.join(config.labels)} is of an image with boxes in "
            f"{', '.join(config.annotations)}"
        )
    metrics = summarise(tally)
    for method in metrics.values():
        method["num_missing"] = inputs.count_absent(known, ids)
        method["num_extra"] = inputs.count_absent(ids, known)
    if config.store_threshold:
        _store_threshold(config, metrics["c2am"])
    curves.write(config, tally)
    text = json.dumps(metrics, indent=2) + "\n"
    storage.write_bytes(config.output, text.encode())
    table = config.output.removesuffix(".json") + ".md"
    storage.write_bytes(table, markdown(metrics).encode())
    return metrics


def _score(units: list[Unit], annotations: Annotations) -> Tally:
    compile_scan()  # here once, into numba's cache, instead of in every worker
    score = functools.partial(_score_unit, annotations=ray.put(annotations))
    rows = [dataclasses.asdict(unit) for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(score)
    tally = Tally.empty()
    for row in dataset.iter_rows():
        tally = tally.merge(pickle.loads(row["tally"]))
    return tally


def _score_unit(
    unit: dict[str, Any], annotations: "ray.ObjectRef[Annotations]"
) -> dict[str, bytes]:
    """The pickled tally of one unit. Runs on a worker."""
    cv2.setNumThreads(1)  # tasks share the cores among themselves
    tally = Tally.empty()
    for row in inputs.read_unit(Unit(**unit), ray.get(annotations)):
        try:
            tally.add(row)
        except ValueError as error:
            raise ValueError(f"{unit['uri']}: {error}") from error
    return {"tally": pickle.dumps(tally)}


def summarise(tally: Tally) -> Metrics:
    """The figures of a tally, in percent.

    Plain names (``gt_known_loc``) are honest: the threshold of each half of the images is the
    one that is best on the other half. ``oracle_`` ones choose on the images they score.

    Raises:
        ValueError: some labels have an activation map and some do not.
    """
    num_labeled = tally.num_images - tally.num_errors
    if 0 < tally.num_maps < num_labeled:
        raise ValueError(
            f"{num_labeled - tally.num_maps} of {num_labeled} labels lack an activation map: "
            "label with one --write-maps throughout"
        )
    c2am: dict[str, float] = {}
    if tally.num_maps:
        largest = tally.boxes[0].largest, tally.boxes[1].largest
        any_contour = tally.boxes[0].any_contour, tally.boxes[1].any_contour
        c2am |= _localization(largest, any_contour, THRESHOLDS, "threshold")
        c2am |= {"pxap": tally.pixels.average_precision()} if tally.pixels.has_foreground else {}
        c2am |= {"cor_loc": c2am["gt_known_loc"]} if tally.num_train == tally.num_images else {}
    c2am["stored_gt_known_loc"] = 100 * tally.num_stored_hits / tally.num_images
    centre = _localization(tally.centre, tally.centre, CENTRE_SIDES, "side")
    if tally.centre_pixels.has_foreground:
        centre["pxap"] = tally.centre_pixels.average_precision()
    if tally.num_train == tally.num_images:
        centre["cor_loc"] = centre["gt_known_loc"]
    c2am |= {"num_errors": tally.num_errors}
    for method in (c2am, centre):
        method["num_images"] = tally.num_images
        method["num_without_boxes"] = tally.num_without_boxes
    return {"c2am": c2am, "centre": centre}


Halves = tuple[HitCounts, HitCounts]


def _localization(
    largest: Halves, any_contour: Halves, settings: np.ndarray, setting: str
) -> dict[str, float]:
    """The metrics that depend on a setting: held-out and oracle ones.

    GT-known Loc is MaxBoxAcc at IoU 0.5. ``{setting}`` is the mean of the two that the halves
    chose, ``oracle_{setting}`` the best on all images, both for GT-known Loc.
    """
    both, both_any = largest[0].merge(largest[1]), any_contour[0].merge(any_contour[1])
    figures = {
        "": (held_out_accuracy(*largest), held_out_accuracy(*any_contour)),
        "oracle_": (oracle_accuracy(both), oracle_accuracy(both_any)),
    }
    result: dict[str, float] = {}
    for prefix, (v1, v2) in figures.items():
        result[f"{prefix}gt_known_loc"] = result[f"{prefix}max_box_acc"] = float(v1[_HALF])
        result[f"{prefix}max_box_acc_v2"] = float(v2.mean())
        for i, level in enumerate(IOU_LEVELS):
            result[f"{prefix}max_box_acc_{level * 100:.0f}"] = float(v1[i])
            result[f"{prefix}max_box_acc_v2_{level * 100:.0f}"] = float(v2[i])
    chosen = [float(settings[half.best()[_HALF]]) for half in largest if half.num_images]
    result[setting] = float(np.mean(chosen))
    result[f"oracle_{setting}"] = float(settings[both.best()[_HALF]])
    return result


def _store_threshold(config: EvaluateConfig, metrics: dict[str, float]) -> None:
    """Writes the threshold that is best on all scored images, for images not among them."""
    if "oracle_threshold" not in metrics:
        raise ValueError(
            f"{', '.join(config.labels)}: without activation maps there is no threshold to "
            "store; label with --write-maps map"
        )
    stored = {
        "threshold": metrics["oracle_threshold"],
        "chosen_on": list(config.annotations),
        "num_images": metrics["num_images"],
        "gt_known_loc": metrics["gt_known_loc"],
    }
    uri = storage.join(config.store_threshold, "threshold.json")
    storage.write_bytes(uri, (json.dumps(stored, indent=2) + "\n").encode())


def markdown(metrics: Metrics) -> str:
    """A Markdown table: one row a metric, one column a method; percentages but for counts."""
    methods = list(metrics)
    names = list(dict.fromkeys(name for method in metrics.values() for name in method))
    lines = ["| metric | " + " | ".join(methods) + " |", "|---|" + "---:|" * len(methods)]
    for name in names:
        cells = [_cell(name, metrics[method].get(name)) for method in methods]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.startswith("num_"):
        return str(value)
    is_share = name.endswith(("threshold", "side"))
    return f"{value:.3g}" if is_share else f"{value:.1f}"
