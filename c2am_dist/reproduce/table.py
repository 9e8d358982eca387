"""Rows of ours beside the published ones, as Markdown: figures, and what differs."""

import dataclasses
import json
from typing import Any

from c2am_dist import storage
from c2am_dist.config import TrainConfig, to_json
from c2am_dist.config.reproduce import WsolConfig
from c2am_dist.labeling.models import PLAIN_PX
from c2am_dist.reproduce import published
from c2am_dist.reproduce.published import Published
from c2am_dist.reproduce.rows import Row

FIGURES = {
    "gt_known_loc": "GT-known",
    "top1_loc": "Top-1",
    "top5_loc": "Top-5",
    "max_box_acc_v2": "MaxBoxAccV2",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A row with its figures."""

    row: Row
    steps: dict[str, TrainConfig]
    """What was trained for it: method -> its run."""
    metrics: dict[str, dict[str, float]]
    """What evaluation says: of the labels, ``centre`` and ``predictions``."""
    seconds: float
    """That this start of the command took for it."""

    @property
    def own(self) -> dict[str, float]:
        """The figures of the row's labels."""
        (name,) = self.metrics.keys() - {"centre", "predictions"}
        return self.metrics[name]

    def as_json(self) -> dict[str, Any]:
        """All that is known of it."""
        runs = {name: json.loads(to_json(run)) for name, run in self.steps.items()}
        row = dataclasses.asdict(self.row) | {"name": self.row.name, "seconds": self.seconds}
        return row | {"training": runs, "metrics": self.metrics}


def markdown(config: WsolConfig, results: list[Result]) -> str:
    """The table: ``honest / oracle`` thresholds; boxes without a map have one figure alone."""
    titles = ["method", "encoder", "from", *FIGURES.values(), "published", "what differs"]
    ruler = "|---|---|---|" + "---:|" * len(FIGURES) + "---|---|"
    first = results[0]
    centre = _cells(first.metrics["centre"])
    lines = ["| " + " | ".join(titles) + " |", ruler]
    lines.append(_line("centre", "–", "–", centre, "–", "nothing is learned"))
    for result in results:
        row = result.row
        rows = published.nearest(row.method, config.dataset, row.encoder, row.initialization)
        cells = _cells(result.own)
        differs = _differs(config, result)
        lines.append(
            _line(row.method, row.encoder, row.initialization, cells, _published(rows), differs)
        )
    scores = first.metrics["predictions"]
    lines += [
        "",
        f"Classes: top-1 {scores['top1_accuracy']:.1f}, top-5 {scores['top5_accuracy']:.1f} "
        f"of {scores['num_images']:.0f} images.",
    ]
    return "\n".join(lines) + "\n"


def _line(method: str, encoder: str, start: str, cells: list[str], *rest: str) -> str:
    return "| " + " | ".join([method, encoder, start, *cells, *rest]) + " |"


def _cells(figures: dict[str, float]) -> list[str]:
    return [_cell(figures, name) for name in FIGURES]


def _cell(figures: dict[str, float], name: str) -> str:
    if name in figures:
        return f"{figures[name]:.1f} / {figures[f'oracle_{name}']:.1f}"
    stored = figures.get(f"stored_{name}")
    return "–" if stored is None else f"{stored:.1f}"


def _published(rows: list[Published]) -> str:
    """``GT-known 65.9 (Table 2, ResNet-50, supervised)``, or that there is none."""
    told = []
    for row in rows:
        shown = [
            f"{title} {getattr(row, name):.1f}"
            for name, title in FIGURES.items()
            if getattr(row, name) is not None
        ]
        where = ", ".join(filter(None, [f"Table {row.table}", row.encoder, row.initialization]))
        told.append(f"{', '.join(shown)} ({where})")
    return "; ".join(told) or "not in these tables"


def _differs(config: WsolConfig, result: Result) -> str:
    """Data, weights and budget of the row, where the papers have ImageNet or CUB and their own."""
    first, *others = config.train
    data = storage.name(first) + (f" and {len(others)} more" if others else "")
    told = [f"weights {storage.name(result.row.weights) or 'trained here'}"]
    if not result.steps:
        told.append(f"{config.size_px or PLAIN_PX} px")
    for name, run in result.steps.items():
        images = f"{run.data.limit} images" if run.data.limit else f"all of {data}"
        length = f"{run.optim.max_steps} steps" if run.optim.max_steps else (
            f"{run.optim.epochs:g} epoch{'' if run.optim.epochs == 1 else 's'}"
        )  # fmt: skip
        told.append(f"{name}: {length} over {images}, batch {run.optim.batch_size}, "
                    f"{run.data.crop_px} px")  # fmt: skip
    return "; ".join(told)
