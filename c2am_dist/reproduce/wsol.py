"""``wsol(config)``: each row trained, labeled and scored by the functions of the jobs.

Every step is one that goes on or is passed over when it is there already, so the same command
again after a kill does what is missing.
"""

import dataclasses
import json
import time
from typing import Any

from c2am_dist import storage
from c2am_dist.config import ClassifyConfig, EvaluateConfig, LabelConfig, Method
from c2am_dist.config.reproduce import WsolConfig
from c2am_dist.data import shards
from c2am_dist.evaluation import evaluate
from c2am_dist.evaluation.job import Metrics
from c2am_dist.labeling.classify import classify
from c2am_dist.labeling.job import label
from c2am_dist.reproduce import table
from c2am_dist.reproduce.rows import Row, plan, trained, training
from c2am_dist.reproduce.table import Result
from c2am_dist.training import fit


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A classifier, as labeling and classification name it."""

    checkpoint: str
    encoder: str | None = None
    """Of a plain torchvision one; a run's checkpoint knows its own."""
    class_names: str = ""
    size_px: int | None = None
    """Side of what a plain one sees."""


def wsol(config: WsolConfig) -> list[Result]:
    """Makes the table's rows and writes ``table.md`` and ``results.json``; needs Ray.

    Raises:
        ValueError, OSError, TrainingStopped: as the jobs, with their messages.
    """
    rows = plan(config)
    results: list[Result] = []
    source = _classifier(config, rows[0])
    predictions = _join(config, "predictions")
    _step("classify", predictions)
    classify(
        ClassifyConfig(
            checkpoint=source.checkpoint,
            architecture=source.encoder,
            class_names=source.class_names,
            resize_px=source.size_px,
            crop_px=source.size_px,
            precision=config.precision,
            input=config.val,
            output=predictions,
        )
    )
    for row in rows:
        started = time.monotonic()
        labels, steps = _label(config, row, source)
        metrics = _evaluate(config, row, labels, predictions)
        took_s = time.monotonic() - started
        results.append(Result(row=row, steps=steps, metrics=metrics, seconds=took_s))
        _write(config, results)
    return results


def _classifier(config: WsolConfig, first: Row) -> Source:
    """The one that is given, with the classes of the training shards, or one trained on them."""
    if not config.classifier:
        return Source(_fit(config, "classifier", first))
    encoder, _, weights = config.classifier.partition("=")
    uris = [storage.absolute(uri) for uri in config.train]
    classes = shards.classes_of(shards.index(uris, columns=["image_id", "label"]))
    names = _join(config, "classes.txt")
    storage.write_bytes(names, "".join(f"{name}\n" for name in classes).encode())
    return Source(weights, encoder, names, config.size_px)


def _label(config: WsolConfig, row: Row, source: Source) -> tuple[str, dict[str, Any]]:
    """The labels of the images to score, and what was trained for them: method -> its config."""
    output = _join(config, f"labels/{row.name}")
    plain = {
        "method": "ddt", "checkpoint": row.weights, "encoder": row.encoder,
        "size_px": config.size_px,
    }  # fmt: skip
    if row.method == "cam":
        _label_by(config, output, method="cam", **dataclasses.asdict(source))
    elif row.method == "ddt":
        _label_by(config, output, **plain)
    elif row.method == "ddt+psol":
        boxes = _join(config, f"labels/train-ddt-{row.encoder}-{row.initialization}")
        _label_by(config, boxes, input=config.train, write_maps="none", **plain)
        _label_by(config, output, checkpoint=_fit(config, "psol", row, boxes))
    elif row.method == "c2am+psol":
        boxes = _join(config, f"labels/train-c2am-{row.encoder}-{row.initialization}")
        run = _fit(config, "c2am", row)
        _label_by(config, boxes, checkpoint=run, input=config.train, write_maps="none")
        _label_by(config, output, checkpoint=_fit(config, "psol", row, boxes))
    else:
        method: Method = "bridging" if row.method == "bridging" else "c2am"
        _label_by(config, output, checkpoint=_fit(config, method, row))
    runs = trained(row.method, with_classifier=not config.classifier)
    return output, {name: training(config, name, row) for name in runs}


def _label_by(config: WsolConfig, output: str, **flags: Any) -> None:
    _step("label", output)
    values: dict[str, Any] = {"input": config.val, "precision": config.precision} | flags
    label(LabelConfig(**values, output=output))


def _fit(config: WsolConfig, method: Method, row: Row, boxes: str = "") -> str:
    """The checkpoint of a run, trained unless it is there."""
    run = training(config, method, row)
    if boxes:
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, boxes=(boxes,)))
    _step("train", run.run.name)
    return fit(run).checkpoint


def _evaluate(config: WsolConfig, row: Row, labels: str, predictions: str) -> Metrics:
    output = _join(config, f"metrics/{row.name}.json")
    _step("evaluate", output)
    return evaluate(
        EvaluateConfig(
            labels=(labels,),
            annotations=config.val,
            predictions=(predictions,),
            output=output,
            bootstrap=config.bootstrap,
        )
    )


def _write(config: WsolConfig, results: list[Result]) -> None:
    """Writes what there is so far: a row is there as soon as it is scored."""
    storage.write_bytes(_join(config, "table.md"), table.markdown(config, results).encode())
    content = json.dumps([result.as_json() for result in results], indent=2) + "\n"
    storage.write_bytes(_join(config, "results.json"), content.encode())


def _join(config: WsolConfig, name: str) -> str:
    return storage.join(storage.absolute(config.output), name)


def _step(what: str, output: str) -> None:
    print(f"\n{what}: {output}", flush=True)
