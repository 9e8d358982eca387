"""Rows of segmentation beside the published ones, as Markdown."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from c2am_dist import storage
from c2am_dist.config import Method, TrainConfig
from c2am_dist.config.reproduce_masks import WsssConfig
from c2am_dist.reproduce.published_masks import CLASSES, TABLE_4, TABLE_5
from c2am_dist.reproduce.wsss_rows import Row

_TITLES = ("row", "background", "mIoU", "gain", "false", "missed", "gain most", "lose most",
           "published")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A row with its figures."""

    row: Row
    threshold: float | None
    """The constant background, where that is what competed."""
    metrics: dict[str, Any]
    """What evaluation says."""

    def as_json(self) -> dict[str, Any]:
        """All that is known of it."""
        row = dataclasses.asdict(self.row) | {"name": self.row.name}
        return row | {"threshold": self.threshold, "metrics": self.metrics}


@dataclasses.dataclass(frozen=True, slots=True)
class Cues:
    """Background cues by themselves, as foreground against background."""

    name: str
    metrics: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "metrics": self.metrics}


def markdown(
    config: WsssConfig, results: list[Result], cues: list[Cues], runs: Mapping[Method, TrainConfig]
) -> str:
    """The table, the cues' own figures below it, and what was trained for both; in percent."""
    plain = {r.row.maps: r.metrics["miou"] for r in results if r.row == r.row.baseline}
    lines = ["| " + " | ".join(_TITLES) + " |", "|---|---|---:|---:|---:|---:|---|---|---|"]
    lines += [_line(result, plain.get(result.row.maps)) for result in results]
    if cues:
        lines += ["", "| cues | foreground IoU at 0.5 | best (oracle) | PxAP |"]
        lines.append("|---|---:|---:|---:|")
        names = ("foreground_iou", "oracle_foreground_iou", "pxap")
        for each in cues:
            cells = [f"{each.metrics[name]:.1f}" for name in names]
            lines.append("| " + " | ".join([each.name, *cells]) + " |")
    lines += ["", *_class_table(results)]
    lines += ["", "What was trained:", ""]
    lines += [f"- {_training(config, method, run)}" for method, run in runs.items()]
    return "\n".join(lines) + "\n"


def _line(result: Result, plain: float | None) -> str:
    metrics = result.metrics
    is_plain = result.row == result.row.baseline
    has_gain = plain is not None and not is_plain
    background = result.row.cues or f"{result.threshold:g} (oracle)"
    num_errors = int(metrics.get("num_errors", 0))
    failed = f" ({num_errors} of {metrics['num_images']:.0f} without a mask)" if num_errors else ""
    best, worst = _extremes(metrics["classes"]) if has_gain else ("–", "–")
    cells = [
        result.row.name + failed,
        background,
        f"{metrics['miou']:.1f}",
        f"{metrics['miou'] - plain:+.1f}" if plain is not None and not is_plain else "–",
        f"{metrics['false_activation']:.1f}",
        f"{metrics['missed_activation']:.1f}",
        best,
        worst,
        _published(result.row),
    ]
    return "| " + " | ".join(cells) + " |"


def _class_table(results: list[Result]) -> list[str]:
    """IoU of each class that occurs, a column a row; the ranges of Table 4 for those it has."""
    names = [result.row.name for result in results]
    lines = ["| IoU | " + " | ".join(names) + " | CAM, Table 4 | + C²AM, Table 4 |"]
    lines.append("|---|" + "---:|" * (len(names) + 2))
    by_row = [{each["class"]: each["iou"] for each in r.metrics["classes"]} for r in results]
    for name in sorted(by_row[0], key=_place):
        found = [row.get(name) for row in by_row]
        if any(value is not None for value in found):
            cells = ["–" if value is None else f"{value:.1f}" for value in found]
            lines.append("| " + " | ".join([name, *cells, *_published_class(name)]) + " |")
    return lines


def _place(name: str) -> tuple[int, str]:
    """Classes of Table 4 in its order, others after them."""
    return (CLASSES.index(name), "") if name in CLASSES else (len(CLASSES), name)


def _published_class(name: str) -> tuple[str, str]:
    """Lowest and highest IoU of a class among Table 4's five methods, before and after."""
    if name not in CLASSES:
        return "–", "–"
    index = CLASSES.index(name)
    before, after = ([getattr(row, kind)[index] for row in TABLE_4] for kind in ("cam", "c2am"))
    return f"{min(before)} to {max(before)}", f"{min(after)} to {max(after)}"


def _extremes(classes: list[dict[str, Any]]) -> tuple[str, str]:
    """The classes whose IoU gains most and least over the plain maps."""
    gains = {
        each["class"]: each["gain"]
        for each in classes
        if each["gain"] is not None and each["class"] != "background"
    }
    if not gains:
        return "–", "–"
    best, worst = max(gains, key=lambda name: gains[name]), min(gains, key=lambda name: gains[name])
    return f"{best} {gains[best]:+.1f}", f"{worst} {gains[worst]:+.1f}"


def _published(row: Row) -> str:
    """The range over the five methods of Table 5, whose CAMs are refined there."""
    column = {"": "cam", "c2am": "c2am"}.get(row.cues)
    if row.refinement != "none":
        column = "crf" if row.refinement == "crf" and not row.cues else None
    if row.maps.startswith("sipe") or column is None:
        return "not in these tables"
    figures = [getattr(each, column) for each in TABLE_5 if getattr(each, column) is not None]
    own = [getattr(each, column) for each in TABLE_5 if each.method.lower() == row.maps.lower()]
    if own and own[0] is not None:
        return f"{own[0]:.1f} (Table 5, {row.maps})"
    return f"{min(figures):.1f} to {max(figures):.1f} (Table 5, five methods on VOC)"


def _training(config: WsssConfig, method: Method, run: TrainConfig) -> str:
    length = f"{run.optim.max_steps} steps" if run.optim.max_steps else (
        f"{run.optim.epochs:g} epoch{'' if run.optim.epochs == 1 else 's'}"
    )  # fmt: skip
    data = ", ".join(storage.name(uri) for uri in config.train)
    images = f"{run.data.limit} images of {data}" if run.data.limit else data
    weights = storage.name(run.model.weights)
    return (
        f"{method}: {run.model.encoder} from {weights}, {length} over {images}, batch "
        f"{run.optim.batch_size}, {run.data.crop_px} px of {run.data.resize_px}"
    )
