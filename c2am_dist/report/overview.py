"""What can be said of all labels at once: counts, histograms, and who made them."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from c2am_dist import storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.report import provenance
from c2am_dist.report.charts import Chart, Series
from c2am_dist.report.page import Section, Table, Text, json_lines, shown
from c2am_dist.report.rows import Row

_EDGES = np.linspace(0, 1, 21)
_ORIGIN = (
    "checkpoint_sha256",
    "config_sha256",
    "package_version",
    "polarity",
    "polarity_margin",
    "threshold_source",
)
MAX_ORIGINS = 20
"""More kinds of rows than these are counted, not listed."""


class Histogram:
    """How many values lie in each twentieth of [0, 1]; outside counts at the nearer end."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(_EDGES) - 1, np.int64)

    def add(self, value: float | None) -> None:
        if value is not None and np.isfinite(value):
            share = min(max(value, 0.0), 1.0)
            self.counts[min(int(share * len(self.counts)), len(self.counts) - 1)] += 1

    def series(self, name: str) -> Series:
        """In percent of the values."""
        total = max(1, int(self.counts.sum()))
        points = [
            (float(e), 100 * int(n) / total) for e, n in zip(_EDGES, self.counts, strict=False)
        ]
        return Series(name=name, points=points, kind="steps")

    @property
    def is_empty(self) -> bool:
        return not self.counts.any()


class Overview:
    """Counts of label rows; holds nothing that grows with their number."""

    def __init__(self) -> None:
        self.num_rows = self.num_errors = self.num_without_box = self.num_boxes = 0
        self.num_scored = self.num_hits = 0
        self.origins: Counter[tuple[Any, ...]] = Counter()
        self.num_other_origins = 0
        names = ("size", "truth_size", "score", "confidence", "foreground", "iou")
        self.histograms = {name: Histogram() for name in names}

    def add(self, row: Row) -> None:
        label, add = row.label, self._add
        self.num_rows += 1
        self.num_errors += label["error"] is not None
        self.num_without_box += label["error"] is None and not row.boxes
        self.num_boxes += len(row.boxes)
        for box, found in zip(row.boxes, label["pseudo_boxes"] or [], strict=True):
            add("size", _share(box, label))
            add("score", found["score"])
        for truth in row.truths or []:
            add("truth_size", _share(truth, label))
        add("confidence", label["confidence"])
        add("foreground", label["foreground_fraction"])
        iou = row.iou()
        add("iou", iou)
        self.num_scored += iou is not None
        self.num_hits += iou is not None and iou >= 0.5
        if label["error"] is None:
            origin = tuple(label[name] for name in _ORIGIN)
            if origin in self.origins or len(self.origins) < MAX_ORIGINS:
                self.origins[origin] += 1
            else:
                self.num_other_origins += 1

    def _add(self, name: str, value: float | None) -> None:
        self.histograms[name].add(value)

    def checkpoints(self) -> set[str]:
        """Digests of the checkpoints that made the labels."""
        return {origin[0] for origin in self.origins}

    def section(self) -> Section:
        """The histograms and counts of the labels."""
        rows = [
            ("images", f"{self.num_rows:,}"),
            ("with an error", f"{self.num_errors:,}"),
            ("labeled, without a box", f"{self.num_without_box:,}"),
            ("boxes", f"{self.num_boxes:,}"),
            ("with a known box", f"{self.num_scored:,}"),
        ]
        if self.num_scored:
            rate = 100 * self.num_hits / self.num_scored
            rows.append(("of these, first box right (IoU ≥ 0.5)", f"{rate:.1f} %"))
        return Section(
            id="labels",
            title="Labels",
            notes=["Over all label rows, also those that the gallery leaves out."],
            tables=[Table("Counts", ("what", "number"), rows)],
            charts=[*self._charts()],
        )

    def _charts(self) -> list[Chart]:
        kinds = (
            ("Size of the boxes", "share of the image's area", "boxes",
             {"size": "pseudo boxes", "truth_size": "ground truth"}),
            ("Score of the boxes", "score", "boxes", {"score": "pseudo boxes"}),
            ("Confidence of the maps", "confidence", "images", {"confidence": "images"}),
            ("Foreground fraction of the maps", "share of the map above the threshold", "images",
             {"foreground": "images"}),
            ("IoU of the first box", "IoU with the best ground-truth box", "images",
             {"iou": "images"}),
        )  # fmt: skip
        made = []
        for title, x_label, what, names in kinds:
            found = [
                self.histograms[name].series(text)
                for name, text in names.items()
                if not self.histograms[name].is_empty
            ]
            if found:
                made.append(
                    Chart(
                        title=title,
                        description=f"Histogram of twenty bins: {title.lower()}, each bar in "
                        f"percent of all {what}.",
                        x_label=x_label,
                        y_label=f"{what}, percent",
                        series=found,
                    )
                )
        return made

    def origin(self, files: Sequence[storage.File], labels: Sequence[str]) -> Section:
        """Who made the labels: digests, polarity, and the configs that the files hold."""
        rows = [
            (*(text(value) for value in origin), f"{count:,}")
            for origin, count in self.origins.most_common()
        ]
        notes = []
        if self.num_other_origins:
            notes.append(f"{self.num_other_origins:,} rows are of further kinds.")
        texts = []
        for name, content in configs(files).items():
            title = f"Label config {name[:12]}"
            command = provenance.command("label.py", content, LabelConfig(), output=labels[0])
            texts.append(Text(f"{title}: command", [command]))
            texts.append(Text(title, json_lines(content)))
        head = [*(name.replace("_", " ") for name in _ORIGIN), "rows"]
        return Section(
            id="labels-origin",
            title="Where the labels come from",
            notes=notes,
            tables=[Table("Kinds of rows", head, rows)] if rows else [],
            texts=texts,
        )


def _share(box: tuple[int, int, int, int], label: dict[str, Any]) -> float | None:
    """The box's share of the image's area; None where the image's size is unknown."""
    x0, y0, x1, y1 = box
    area = (label["width"] or 0) * (label["height"] or 0)
    return max(0, x1 - x0) * max(0, y1 - y0) / area if area else None


def text(value: object) -> str:
    """A cell of a table; a dash for None."""
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def configs(files: Sequence[storage.File]) -> dict[str, dict[str, Any]]:
    """The distinct label configs in the files' metadata, by digest; at most MAX_ORIGINS."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        metadata = shards.read_schema(file.uri).metadata or {}
        name = shown(metadata.get(b"c2am_dist.config_sha256", b"").decode(errors="replace"))
        if name in found or len(found) >= MAX_ORIGINS:
            continue
        try:
            content = json.loads(metadata[b"c2am_dist.config"])
        except (KeyError, ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            found[name] = content
    return found
