"""``wsss(config)``: each row's maps, cues and masks by the functions of the jobs, and their mIoU.

Every step is passed over when it is there already, so the same command again after a kill does
what is missing.
"""

import json
from typing import Any

from c2am_dist import storage
from c2am_dist.config import (
    EvaluateMasksConfig,
    LabelConfig,
    Method,
    RefineConfig,
    TrainConfig,
)
from c2am_dist.config.reproduce_masks import WsssConfig
from c2am_dist.data import label_map_files, shards
from c2am_dist.data.row_files import LabelReport
from c2am_dist.evaluation.masks import BASELINE, evaluate_masks
from c2am_dist.labeling.job import label
from c2am_dist.method import crf
from c2am_dist.refinement.job import refine
from c2am_dist.reproduce import wsss_table
from c2am_dist.reproduce.wsss_rows import Row, folders, plan, trained, training
from c2am_dist.reproduce.wsss_table import Cues, Result
from c2am_dist.training import fit

MAX_ERROR_FRACTION = 0.01
"""Of a step's images: the default of the jobs."""


def wsss(config: WsssConfig) -> tuple[list[Result], list[Cues]]:
    """Makes the table's rows and writes ``table.md`` and ``results.json``; needs Ray.

    Raises:
        ValueError, OSError, TrainingStopped: as the jobs, with their messages.
    """
    rows = plan(config)
    _refuse_early(config, rows)
    runs: dict[Method, TrainConfig] = {m: training(config, m) for m in trained(rows)}
    maps = {name: _maps(config, name) for name in dict.fromkeys(row.maps for row in rows)}
    cues = {name: _cues(config, name) for name in dict.fromkeys(row.cues for row in rows) if name}
    scored = [Cues(name, _evaluate(config, f"cues-{name}", uri)) for name, uri in cues.items()]
    best = {name: _best_threshold(config, name, uri) for name, uri in maps.items()}
    results: list[Result] = []
    for row in rows:
        threshold = None if row.cues else best[row.maps]
        masks = _refine(config, row, maps[row.maps], cues.get(row.cues), threshold)
        baseline = _join(config, f"masks/{_name(row.baseline, best[row.maps])}")
        is_baseline = row == row.baseline
        metrics = _evaluate(config, row.name, masks, "" if is_baseline else baseline)
        results.append(Result(row=row, threshold=threshold, metrics=metrics))
        text = wsss_table.markdown(config, results, scored, runs)
        storage.write_bytes(_join(config, "table.md"), text.encode())
        content = {"rows": [each.as_json() for each in results],
                   "cues": [each.as_json() for each in scored]}  # fmt: skip
        storage.write_bytes(_join(config, "results.json"), _json(content))
    return results, scored


def _refuse_early(config: WsssConfig, rows: list[Row]) -> None:
    """Refuses what a later step would, before anything is trained.

    Raises:
        FileNotFoundError, ValueError: shards lack a column, a folder or the label map is not
            there, or the extra ``crf`` is needed and missing; the message names it.
    """
    label_map_files.read(config.label_map)
    LabelConfig(cue_threshold=config.cue_threshold)
    if any(row.refinement == "crf" or row.cues == "saliency" for row in rows):
        crf.check_installed()
    for uri in folders(config).values():
        if not storage.exists(uri):
            raise FileNotFoundError(f"cams: {uri}: no such folder")
    for uris, columns in ((config.train, ["labels"]), (config.val, ["labels", "mask"])):
        shards.index([storage.absolute(uri) for uri in uris], columns=["image_id", *columns])


def _maps(config: WsssConfig, name: str) -> str:
    """The class maps of the images to score: a label set of ours, or the folder given."""
    if name in folders(config):
        return folders(config)[name]
    run = _fit(config, "cam" if name == "cam" else "sipe")
    flags = {"sipe_maps": "general"} if name == "sipe-cam" else {}
    return _label(config, f"labels/{name}", run, write_class_maps="map", **flags)


def _cues(config: WsssConfig, name: str) -> str:
    """The background cues of the images to score."""
    run = _fit(config, "c2am")
    if name == "saliency":
        learned = _label(
            config, "labels/train-c2am", run, input=config.train, write_cues="image",
            refine_cues="crf", cue_threshold=config.cue_threshold, write_maps="none",
        )  # fmt: skip
        run = _fit(config, "saliency", learned)
    return _label(config, f"labels/{name}", run, write_cues="image", write_maps="none")


def _best_threshold(config: WsssConfig, name: str, maps: str) -> float:
    """The constant background with the highest mIoU on the masks that are scored: an oracle's."""
    scores: dict[float, float] = {}
    for threshold in config.thresholds:
        row = Row(name)
        masks = _refine(config, row, maps, None, threshold)
        scores[threshold] = float(_evaluate(config, _name(row, threshold), masks)["miou"])
    return max(scores, key=lambda threshold: scores[threshold])


def _refine(
    config: WsssConfig, row: Row, maps: str, cues: str | None, threshold: float | None
) -> str:
    output = _join(config, f"masks/{_name(row, threshold)}")
    _step("refine", output)
    report = refine(
        RefineConfig(
            maps=(maps,),
            cues=(cues,) if cues else (),
            threshold=threshold,
            images=config.val,
            output=output,
            label_map=config.label_map,
            refinement=row.refinement,
            write_png=False,
        )
    )
    _refuse_errors(output, report)
    return output


def _refuse_errors(output: str, report: LabelReport) -> None:
    """Raises ValueError where so many images failed that figures would be about that."""
    if report.error_fraction > MAX_ERROR_FRACTION:
        raise ValueError(
            f"{output}: {report.num_errors} of {report.num_images} rows have an error; the column "
            "'error' says why"
        )


def _name(row: Row, threshold: float | None) -> str:
    return row.name if threshold is None else f"{row.name}-{threshold:g}"


def _label(config: WsssConfig, name: str, run: str, **flags: Any) -> str:
    output = _join(config, name)
    _step("label", output)
    values: dict[str, Any] = {
        "input": config.val,
        "precision": config.precision,
        "scales": config.scales,
        "flip": True,
        "write_maps": "map",
    }
    report = label(LabelConfig(checkpoint=run, output=output, **{**values, **flags}))
    _refuse_errors(output, report)
    return output


def _fit(config: WsssConfig, method: Method, cues: str = "") -> str:
    run = training(config, method, cues)
    _step("train", run.run.name)
    return fit(run).checkpoint


def _evaluate(config: WsssConfig, name: str, masks: str, baseline: str = "") -> dict[str, Any]:
    """The figures of masks, and those of each class under ``classes``."""
    output = _join(config, f"metrics/{name}.json")
    _step("evaluate", output)
    found = evaluate_masks(
        EvaluateMasksConfig(
            masks=(masks,),
            annotations=config.val,
            output=output,
            label_map=config.label_map,
            baseline=(baseline,) if baseline else (),
        )
    )
    (own,) = (figures for method, figures in found.items() if method != BASELINE)
    by_class = storage.read_json(output.removesuffix(".json") + ".classes.json")
    return own | {"classes": by_class["classes"]}


def _join(config: WsssConfig, name: str) -> str:
    return storage.join(storage.absolute(config.output), name)


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _step(what: str, output: str) -> None:
    print(f"\n{what}: {output}", flush=True)
