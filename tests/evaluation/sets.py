"""Label sets, annotations and predictions in miniature, and their tally without Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import schema
from c2am_dist.evaluation import inputs, predictions
from c2am_dist.evaluation.tally import Tally
from tests.test_evaluation import write

Rows = Sequence[dict[str, Any]]


class Scored(NamedTuple):
    tally: Tally
    method: str
    classes: tuple[str, ...]
    rows: list[dict[str, Any]]
    """What the tally counted."""


def prediction_row(image_id: str, *classes: str, **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(schema.PREDICTIONS.names)
    row |= {"image_id": image_id, "shard": "a.parquet", "classifier": "resnet50"}
    row |= {"checkpoint_sha256": "0", "config_sha256": "0", "package_version": "0"}
    if classes:
        shares = [1 / (2 + i) for i in range(len(classes))]
        row |= {"classes": list(classes), "probabilities": shares}
    return row | changes


def write_labels(path: Path, rows: Rows, method: str | None = None) -> str:
    """A label file that names its method, or, as older ones, none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = (
        schema.LABELS
        if method is None
        else schema.LABELS.with_metadata({"c2am_dist.method": method})
    )
    pq.write_table(pa.Table.from_pylist(list(rows), schema=kind), path)
    return str(path)


def score(
    root: Path, labels: Rows, notes: Rows, found: Rows | None = None, *, method: str | None = None
) -> Scored:
    """Writes the files and counts them on this process."""
    write_labels(root / "labels/a.parquet", labels, method)
    write(root / "shards/a.parquet", list(notes), schema.SHARD)
    planned = inputs.plan([str(root / "labels")], allow_incomplete=True)
    annotations = inputs.read_annotations([str(root / "shards")], with_classes=True)
    if found is not None:
        write(root / "predictions/a.parquet", list(found), schema.PREDICTIONS)
        annotations, _ = predictions.join(
            [str(root / "predictions")], annotations, allow_incomplete=True
        )
    rows = [row for unit in planned.units for row in inputs.read_unit(unit, annotations)]
    return Scored(tally_of(rows), planned.method, annotations.classes, rows)


def tally_of(rows: Rows) -> Tally:
    tally = Tally.empty()
    for row in rows:
        tally.add(row)
    return tally
