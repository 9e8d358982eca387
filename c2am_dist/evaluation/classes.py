"""The figures of each class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2am_dist import names
from c2am_dist.evaluation.figures import composed
from c2am_dist.evaluation.hits import Hits, class_hits, image_hits
from c2am_dist.evaluation.tally import Tally

Row = dict[str, str | int | float | None]


def by_class(tally: Tally, method: str, classes: Sequence[str]) -> list[Row]:
    """A row for each class that annotations name: its images, and its figures in percent.

    ``num_images`` counts those scored and, with predictions, ``num_predicted`` those that have
    one; figures of no image are None. Those of the centred box begin with ``centre_``.
    """
    index = tally.outcomes.rows()["class_index"]
    columns: dict[str, list[Any]] = {"num_images": _count(index, len(classes)).tolist()}
    columns |= _shares(index, len(classes), _shown(image_hits(tally, method)))
    hits, is_predicted = class_hits(tally, method)
    if hits:
        index = index[is_predicted]
        columns["num_predicted"] = _count(index, len(classes)).tolist()
        columns |= _shares(index, len(classes), _shown(hits))
    return [
        {"class": name, **{column: values[i] for column, values in columns.items()}}
        for i, name in enumerate(classes)
    ]


def _shown(hits: Hits) -> dict[str, np.ndarray]:
    """The columns that a table of classes has: Loc and accuracy, of the centred box the honest."""
    return {
        f"centre_{metric}" if name == "centre" else metric: column
        for name, columns in hits.items()
        for metric, column in composed(columns).items()
        if metric.endswith(("_loc", "_accuracy"))
        and (name != "centre" or not metric.startswith("oracle_"))
    }


def _count(index: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(index[index >= 0], minlength=num_classes)


def _shares(
    index: np.ndarray, num_classes: int, columns: Mapping[str, np.ndarray]
) -> dict[str, list[float | None]]:
    """For each column the percentage of hits among the images of each class."""
    num_images = _count(index, num_classes)
    found: dict[str, list[float | None]] = {}
    for name, hits in columns.items():
        num_hits = _count(index[hits], num_classes)
        found[name] = [
            100 * int(hit) / int(count) if count else None
            for hit, count in zip(num_hits, num_images, strict=True)
        ]
    return found


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, one row a class; percentages but for counts."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: str | int | float | None) -> str:
    if isinstance(value, str):  # a name that somebody else chose
        return names.printable(value).replace("\\", "\\\\").replace("|", "\\|")
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
