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
from c2am_dist.evaluation.masks import BASELINE, evaluate_masks
from c2am_dist.labeling.job import label
from c2am_dist.refinement.job import refine
from c2am_dist.reproduce import wsss_table
from c2am_dist.reproduce.wsss_rows import Row, folders, plan, trained, training
from c2am_dist.reproduce.wsss_table import Cues, Result
from c2am_dist.training import fit


def wsss(config: WsssConfig) -> tuple[list[Result], list[Cues]]:
    """Makes the table's rows and writes ``table.md`` and ``results.json``; needs Ray.

    Raises:
        ValueError, OSError, TrainingStopped: as the jobs, with their messages.
    """
    rows = plan(config)
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
    refine(
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
    return output


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
    label(LabelConfig(checkpoint=run, output=output, **{**values, **flags}))
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
