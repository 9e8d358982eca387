"""Labels + annotations (+ predictions) -> metrics, for the labels and for the centred box.

Ray Data tasks read and score some hundred label rows each and return counts and, of each image,
which settings are right; the driver merges them. It holds the ids of all labels and predictions,
the ids, sizes and boxes of all annotations, and 111 bytes an image of what became of it: about
250 bytes an image (320 MB for ImageNet's 1.3 million). Tasks read the annotations from the object
store. Maps and masks never leave the task that reads them.
"""

import dataclasses
import functools
import json
import logging
import pickle
from typing import Any

import cv2
import pyarrow as pa
import ray
import ray.data

from c2am_dist import __version__, storage
from c2am_dist.config import EvaluateConfig, to_json
from c2am_dist.evaluation import classes, curves, figures, inputs, predictions
from c2am_dist.evaluation.figures import Intervals, Metrics
from c2am_dist.evaluation.inputs import Annotations, LabelRows, Unit
from c2am_dist.evaluation.tally import Tally
from c2am_dist.method.contours import compile_scan

FORMAT = 1
"""Of the files of intervals and of classes; raised whenever they change meaning."""

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> Metrics:
    """Scores labels, writes JSON, a Markdown table and curves beside it, returns the metrics.

    An image is scored when it has a label row and at least one annotated box; a row with an
    error counts as wrong. What is left out is counted: annotated images without label row
    (``num_missing``), rows without annotation (``num_extra``), images without annotated box
    (``num_without_boxes``). Of these images, figures of classes are of those that have a
    prediction. Needs a connection to Ray.

    Raises:
        FileNotFoundError: an input URI names nothing.
        ValueError: a field is not given, a file lacks a column or has it in another type,
            an id comes twice, a box has no area, a label is missing that figures of classes
            need, or nothing can be scored; the message names the culprit.
    """
    for name in ("labels", "annotations", "output"):
        if not getattr(config, name):
            raise ValueError(f"{name} must be given (--{name} URI)")
    labels = inputs.plan(
        [storage.absolute(uri) for uri in config.labels], allow_incomplete=config.allow_incomplete
    )
    annotations, predicted = _read_notes(config, labels)
    tally = _score(labels.units, annotations)
    if tally.num_images == 0:
        raise ValueError(
            f"no row of {', '.join(config.labels)} is of an image with boxes in "
            f"{', '.join(config.annotations)}"
        )
    metrics = figures.summarise(tally, labels.method)
    _count_absent(metrics, annotations.table["image_id"], labels.ids, predicted)
    if config.store_threshold:
        _store_threshold(config, metrics[labels.method])
    curves.write(config, tally, labels.method)
    found = _write_intervals(config, tally, labels.method) if config.bootstrap else {}
    if config.per_class:
        _write_classes(config, classes.by_class(tally, labels.method, annotations.classes))
    storage.write_bytes(config.output, (json.dumps(metrics, indent=2) + "\n").encode())
    storage.write_bytes(uri_of_table(config.output), markdown(metrics, found).encode())
    return metrics


def _read_notes(
    config: EvaluateConfig, labels: LabelRows
) -> tuple[Annotations, pa.ChunkedArray | None]:
    """The annotations, joined with the predictions, and the ids of these, where given."""
    needs_classes = bool(config.predictions) or config.per_class
    uris = [storage.absolute(uri) for uri in config.annotations]
    annotations = inputs.read_annotations(uris, with_classes=needs_classes)
    if needs_classes:
        inputs.refuse_unlabeled(annotations, labels.ids)
    if not config.predictions:
        return annotations, None
    return predictions.join(
        [storage.absolute(uri) for uri in config.predictions],
        annotations,
        allow_incomplete=config.allow_incomplete,
    )


def _count_absent(
    metrics: Metrics,
    known: pa.ChunkedArray,
    labeled: pa.ChunkedArray,
    predicted: pa.ChunkedArray | None,
) -> None:
    """Adds what is missing and what is too many to the metrics, and says it.

    Raises:
        ValueError: there are predictions, and none of an image that is scored.
    """
    if predicted is not None and "predictions" not in metrics:
        raise ValueError(
            "predictions must be of the labeled images: none of the images scored has one"
        )
    for name, found in metrics.items():
        ids = predicted if name == "predictions" else labeled
        assert ids is not None, "figures of predictions that were not given"
        found["num_missing"] = inputs.count_absent(known, ids)
        found["num_extra"] = inputs.count_absent(ids, known)
        if name != "centre" and (found["num_missing"] or found["num_extra"]):
            logger.warning(
                "%s: %d of %d annotated images have no row, and %d of %d rows no annotation; "
                "they are left out",
                *(name, found["num_missing"], len(known), found["num_extra"], len(ids)),
            )


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


def _write_intervals(config: EvaluateConfig, tally: Tally, method: str) -> Intervals:
    found = figures.intervals(tally, method, num_resamples=config.bootstrap)
    content = {
        "num_resamples": config.bootstrap,
        "seed": figures.SEED,
        "confidence": figures.CONFIDENCE,
        "intervals": found,
    }
    _write_beside(config, ".intervals.json", content)
    return found


def _write_classes(config: EvaluateConfig, rows: list[classes.Row]) -> None:
    _write_beside(config, ".classes.json", {"classes": rows})
    uri = config.output.removesuffix(".json") + ".classes.md"
    storage.write_bytes(uri, classes.markdown(rows).encode())


def _write_beside(config: EvaluateConfig, suffix: str, content: dict[str, Any]) -> None:
    """Writes JSON beside the metrics, with who wrote it."""
    whole = {
        "format": FORMAT,
        "package_version": __version__,
        "config": json.loads(to_json(config)),
        **content,
    }
    text = json.dumps(whole, indent=1) + "\n"
    storage.write_bytes(config.output.removesuffix(".json") + suffix, text.encode())


def uri_of_table(output: str) -> str:
    """Where the Markdown table of an evaluation lies, whose metrics lie at ``output``."""
    return output.removesuffix(".json") + ".md"


def markdown(metrics: Metrics, intervals: Intervals | None = None) -> str:
    """A Markdown table: one row a metric, one column a method; percentages but for counts.

    Confidence intervals, where there are any, stand in brackets behind their figures.
    """
    methods = list(metrics)
    names = list(dict.fromkeys(name for method in metrics.values() for name in method))
    lines = ["| metric | " + " | ".join(methods) + " |", "|---|" + "---:|" * len(methods)]
    for name in names:
        cells = [
            _cell(name, metrics[method].get(name), (intervals or {}).get(method, {}).get(name))
            for method in methods
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "–"
    if name.startswith("num_"):
        return str(value)
    if interval is not None:
        return f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"
    is_share = name.endswith(("threshold", "side"))
    return f"{value:.3g}" if is_share else f"{value:.1f}"
