"""A sweep of four short trials, from its start to its tables, against their training alone.

Training alone is every trial's steps at the median seconds of its steps, the data's steady flow
included. What a sweep adds: processes and their imports, the first batch, checkpoints, scoring.
Ray itself runs before, as it would on a cluster.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from c2am_dist.config import TrainConfig, override
from tests.bench.cluster import local_ray
from tests.conftest import SHARED

STEPS, BATCH, SIZE_PX, SCORED = 60, 64, 128, 256  # under a minute of training on two cores


def _training_s(folder: str, trial: str) -> float:
    lines = Path(folder, "trials", trial, "metrics.jsonl").read_text().splitlines()
    seconds = [BATCH / json.loads(line)["images_per_s"] for line in lines]
    assert len(seconds) == STEPS
    return STEPS * statistics.median(seconds)


def _sweep(folder: str) -> tuple[pa.Table, float]:
    from c2am_dist.sweep import job
    from c2am_dist.sweep.spec import SweepConfig

    data = SHARED / "data" / "tiny-imagenet"
    values = {
        "data.train": (str(data / "train"),),
        "data.resize_px": SIZE_PX,
        "data.crop_px": SIZE_PX,
        "model.encoder": "resnet18",
        "model.weights": str(SHARED / "weights" / "resnet18-tinyimagenet-early.pth"),
        "model.norm": "frozen",
        "optim.batch_size": BATCH,
        "optim.max_steps": STEPS,
        "optim.head_lr_factor": 100.0,
        "run.storage": folder,
        "run.name": "sweep",
        "run.log_every": 1,
    }
    config = SweepConfig(
        sweep=("loss.alpha=0,0.5",),
        seeds=2,
        annotations=(str(data / "val"),),
        score_images=SCORED,
    )
    started = time.perf_counter()
    table = job.sweep(config, override(TrainConfig(), values))
    return table, time.perf_counter() - started


def run() -> list[dict[str, Any]]:
    """The ratio of the whole sweep to the training in it."""
    with tempfile.TemporaryDirectory() as folder, local_ray(include_dashboard=True) as cpus:
        table, sweep_s = _sweep(folder)
        trials = table["trial"].to_pylist()
        training = [_training_s(f"{folder}/sweep", trial) for trial in trials]
    assert table["status"].to_pylist() == ["finished"] * 4
    each = " ".join(f"{seconds:.0f}" for seconds in table["seconds"].to_pylist())
    return [
        {
            "name": f"sweep of four trials / their training alone ({STEPS} steps of {BATCH})",
            "measured": round(sweep_s / sum(training), 2),
            "target": "< 2",
            "detail": f"{sweep_s:.0f} s against {sum(training):.0f} s, {cpus} CPUs; a trial with "
            f"scoring on {SCORED} images {each} s, its training {statistics.mean(training):.0f} s",
        },
        {
            "name": "sweep: seconds a trial beside its training",
            "measured": round((sweep_s - sum(training)) / len(trials), 1),
            "target": None,
            "detail": "processes and their imports, the first batch, checkpoints, scoring",
        },
    ]
