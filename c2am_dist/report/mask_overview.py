"""What can be said of all pseudo masks at once: counts, classes, and who made them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from c2am_dist import storage
from c2am_dist.config import RefineConfig
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.report import provenance
from c2am_dist.report.overview import MAX_ORIGINS, configs, text
from c2am_dist.report.page import Section, Table, Text, json_lines, shown
from c2am_dist.report.rows import Row

_ORIGIN = (
    "background",
    "threshold",
    "refinement",
    "maps_sha256",
    "cues_sha256",
    "config_sha256",
    "package_version",
)


class MaskOverview:
    """Counts of rows of pseudo masks; holds nothing that grows with their number."""

    def __init__(self, label_map: LabelMap) -> None:
        self.label_map = label_map
        self.num_rows = self.num_errors = self.num_other_origins = 0
        self.classes: Counter[str] = Counter()
        self.origins: Counter[tuple[Any, ...]] = Counter()

    def add(self, row: Row) -> None:
        label = row.label
        self.num_rows += 1
        if label["error"] is not None:
            self.num_errors += 1
            return
        known = set(self.label_map.names)  # a file's own texts could be without end
        self.classes.update(known.intersection(label["classes"] or []))
        origin = tuple(label[name] for name in _ORIGIN)
        if origin in self.origins or len(self.origins) < MAX_ORIGINS:
            self.origins[origin] += 1
        else:
            self.num_other_origins += 1

    def checkpoints(self) -> set[str]:
        """Digests of the checkpoints behind maps and cues."""
        places = (_ORIGIN.index("maps_sha256"), _ORIGIN.index("cues_sha256"))
        return {origin[i] for origin in self.origins for i in places if origin[i]}

    def section(self) -> Section:
        """The counts of the masks."""
        counts = [
            ("images", f"{self.num_rows:,}"),
            ("with an error", f"{self.num_errors:,}"),
            ("classes of the label map", f"{len(self.label_map) - 1:,}"),
        ]
        tables = [Table("Counts", ("what", "number"), counts)]
        by_id = [
            (shown(n), f"{self.classes[n]:,}") for n in self.label_map.names if n in self.classes
        ]
        if by_id:
            tables.append(
                Table("Images whose maps of a class competed", ("class", "images"), by_id)
            )
        return Section(
            id="labels",
            title="Pseudo masks",
            notes=["Over all rows, also those that the gallery leaves out."],
            tables=tables,
        )

    def origin(self, files: Sequence[storage.File], labels: Sequence[str]) -> Section:
        """Who made the masks: digests, and the configs that the files hold."""
        kinds = [
            (*(text(value) for value in origin), f"{count:,}")
            for origin, count in self.origins.most_common()
        ]
        notes = []
        if self.num_other_origins:
            notes.append(f"{self.num_other_origins:,} rows are of further kinds.")
        texts = []
        for name, content in configs(files).items():
            title = f"Refine config {name[:12]}"
            command = provenance.command("refine.py", content, RefineConfig(), output=labels[0])
            texts.append(Text(f"{title}: command", [command]))
            texts.append(Text(title, json_lines(content)))
        head = [*(name.replace("_", " ") for name in _ORIGIN), "rows"]
        return Section(
            id="labels-origin",
            title="Where the masks come from",
            notes=notes,
            tables=[Table("Kinds of rows", head, kinds)] if kinds else [],
            texts=texts,
        )
