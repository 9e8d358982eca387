"""A label set with its shards, a run and a sweep whose figures are known, for the reports."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from c2am_dist import schema
from c2am_dist.config import LabelConfig, TrainConfig, digest, override, to_json
from c2am_dist.data import label_set
from c2am_dist.data.label_set import LabelFile
from c2am_dist.method import images
from c2am_dist.sweep import results
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.spec import SweepConfig, Trial, plan

SIZE = (60, 80)  # height, width
TRUTH = (0, 0, 40, 40)
Change = Callable[[dict[str, Any]], dict[str, Any]]


class LabelSet(NamedTuple):
    labels: str
    images: str


def iou_of(index: int) -> float:
    """The IoU of image number ``index``: its box is the truth, moved right."""
    moved = index % 40
    return (40 - moved) / (40 + moved)


def label_row(index: int, shard: str) -> dict[str, Any]:
    moved = index % 40
    activation = np.zeros((15, 20), np.float32)
    activation[:10, moved // 4 : 10 + moved // 4] = 0.8
    box = {"x0": moved, "y0": 0, "x1": moved + 40, "y1": 40, "score": 0.75}
    return {
        "image_id": f"image-{index:05d}",
        "shard": shard,
        "height": SIZE[0],
        "width": SIZE[1],
        "pseudo_boxes": [box],
        "foreground_fraction": (index % 10) / 10,
        "confidence": (index * 7919 % 1000) / 1000,
        "threshold": 0.5,
        "threshold_source": "otsu",
        "polarity": "foreground",
        "polarity_margin": 0.25,
        "activation_map": images.encode_png16(activation),
        "background_cue": None,
        "checkpoint_sha256": "c" * 64,
        "config_sha256": digest(CONFIG),
        "package_version": "0.1",
        "error": None,
    }


CONFIG = LabelConfig(checkpoint="runs/a", input=("shards",), max_boxes=2)


def shard_row(index: int) -> dict[str, Any]:
    pixels = np.full((*SIZE, 3), (index * 37 % 200, 120, index % 256), np.uint8)
    cv2.rectangle(pixels, TRUTH[:2], (39, 39), (250, 240, 30), -1)
    return {
        "image_id": f"image-{index:05d}",
        "image": simplejpeg.encode_jpeg(pixels, quality=85),
        "height": SIZE[0],
        "width": SIZE[1],
        "label": f"class {index % 3}",
        "boxes": [list(TRUTH)],
        "split": "val",
    }


def write_set(
    root: Path,
    num_images: int,
    *,
    shard_images: int = 1000,
    label: Change = lambda row: row,
    shard: Change = lambda row: row,
) -> LabelSet:
    """Shards and a finished label set; ``label`` and ``shard`` change rows before they are kept."""
    files = []
    metadata = {"c2am_dist.config": to_json(CONFIG), "c2am_dist.config_sha256": digest(CONFIG)}
    for start in range(0, num_images, shard_images):
        name = f"shard-{start // shard_images:05d}.parquet"
        indices = range(start, min(start + shard_images, num_images))
        store(root / "shards" / name, [shard(shard_row(i)) for i in indices], schema.SHARD)
        rows = [label(label_row(i, name)) for i in indices]
        kind = schema.LABELS.with_metadata(metadata)
        data = store(root / "labels" / name, rows, kind)
        num_errors = sum(row["error"] is not None for row in rows)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(LabelFile(name, len(rows), num_errors, len(data), sha256))
    label_set.seal(str(root / "labels"), {}, files)
    return LabelSet(str(root / "labels"), str(root / "shards"))


def store(path: Path, rows: Sequence[dict[str, Any]], kind: pa.Schema) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=kind), path, row_group_size=200)
    return path.read_bytes()


def write_evaluation(root: Path) -> str:
    """Metrics and curves as jobs/evaluate.py writes them, of numbers that were made up."""
    thresholds = [i / 100 for i in range(100)]
    accuracy = {level: [90 - abs(t - 0.3) * 80 for t in thresholds] for level in ("30", "50", "70")}
    curves = {
        "format": 1,
        "package_version": "0.1",
        "config": {"labels": ["labels"], "annotations": ["shards"], "output": "metrics.json"},
        "c2am": {
            "threshold": thresholds,
            "max_box_acc": accuracy,
            "max_box_acc_v2": accuracy,
            "precision": [100 - t * 30 for t in thresholds],
            "recall": [t * 100 for t in thresholds],
        },
        "centre": {"side": [0.5, 1.0], "max_box_acc": {}, "precision": [70], "recall": [100]},
    }
    metrics = {
        "c2am": {"gt_known_loc": 89.0, "threshold": 0.31, "oracle_threshold": 0.3, "pxap": 71.5,
                 "num_images": 12000},
        "centre": {"gt_known_loc": 56.9, "side": 0.76, "pxap": 40.25, "num_images": 12000},
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "metrics.json").write_text(json.dumps(metrics))
    (root / "metrics.curves.json").write_text(json.dumps(curves))
    return str(root / "metrics.json")


def write_run(root: Path, *, num_rows: int = 50) -> str:
    """A run's config and metrics, without a checkpoint."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "step": 10 * (i + 1),
            "epoch": i / 10,
            "loss": 4.0 / (i + 1),
            "positive_foreground": 2.0 / (i + 1),
            "positive_background": 1.0 / (i + 1),
            "negative": 1.0 / (i + 1),
            "data_wait_fraction": 0.1,
            "images_per_s": 200.0,
            "images_replaced": int(i == 3),
        }
        for i in range(num_rows)
    ]
    (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"method": "c2am", "loss": {"alpha": 0.25}, "data": {"train": ["s3://bucket/train"]}}
    (root / "config.json").write_text(json.dumps(config))
    return str(root)


SWEEP = SweepConfig(sweep=("loss.alpha=0,0.25,0.5",), seeds=2, annotations=("shards",))
SWEPT = override(
    TrainConfig(), {"data.train": ("shards",), "model.weights": "none", "run.name": "alpha"}
)


def went(index: int, trial: Trial) -> Record | None:
    """How a trial of SWEEP went: to 50, 60, 70 and with the next seed 2 more, but for the last."""
    point, seed = index % 3, index // 3
    if index == 5:
        return Record(status="failed", reason="loss is nan", steps=3)
    score = 50.0 + 10 * point + 2 * seed
    figures = {"gt_known_loc": score, "max_box_acc_v2": 40.0 + index, "flip_agreement": 0.5}
    return Record(status="finished", figures=figures, steps=10, checkpoint=f"runs/{trial.name}")


def write_sweep(
    root: Path,
    config: SweepConfig = SWEEP,
    record: Callable[[int, Trial], Record | None] = went,
) -> str:
    """The folder of a sweep, with the tables that a sweep writes."""
    trials = plan(config, SWEPT)
    found = {trial.name: record(index, trial) for index, trial in enumerate(trials)}
    records = {name: each for name, each in found.items() if each is not None}
    root.mkdir(parents=True, exist_ok=True)
    results.write(str(root), results.table(trials, records, config))
    about = {
        "sweep": dataclasses.asdict(config),
        "config": json.loads(to_json(SWEPT)),
        "versions": {"c2am_dist": "0.1", "ray": "2.99"},
        "command": ["python", "tune/sweep.py", "--sweep", *config.sweep, "--run.name", "a b"],
    }
    (root / "sweep.json").write_text(json.dumps(about))
    return str(root)


def store_sweep(root: Path, trials: Sequence[dict[str, Any]]) -> str:
    """A folder with a table of trials that no sweep would write."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(trials)), root / "results.parquet")
    return str(root)
