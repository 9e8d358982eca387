"""The whole training loop, fed by Ray Data, against the bare step on a batch in memory.

One worker on all cores trains ResNet-50 on real JPEGs. The bare step is that of the `step`
benchmark, in a process of its own, as many threads, before and after.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from c2am_dist.config import TrainConfig, override
from tests.bench.cluster import local_ray
from tests.bench.labeling import write_shards
from tests.bench.step import BATCH, ENCODER, SIZE_PX, step_process

STEPS, SKIPPED = 8, 3


def _bare() -> float:
    """Seconds of a bare step, the first left out."""
    with step_process(is_ours=True) as step:
        return statistics.median([step() for _ in range(4)][1:])


def loop_rows(folder: str, values: Mapping[str, Any]) -> list[dict[str, float]]:
    """The metric rows, one a step, of a run on the folder's shards."""
    from c2am_dist.training import fit

    config = override(
        TrainConfig(),
        {
            "data.train": (f"{folder}/shards",),
            "model.encoder": ENCODER,
            "model.weights": "none",
            "model.norm": "worker",
            "run.storage": folder,
            "run.name": "loop",
            "run.log_every": 1,
            "run.polarity_images": 8,
            **values,
        },
    )
    run = Path(fit(config).run)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run() -> list[dict[str, Any]]:
    """The ratio of images a second, the loop's first steps left out."""
    before = _bare()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", 2, 160)
        with local_ray(include_dashboard=True):
            values = {"optim.batch_size": BATCH, "optim.max_steps": STEPS}
            rows = loop_rows(folder, values)[SKIPPED:]
    bare = BATCH / min(before, _bare())
    loop = statistics.median(row["images_per_s"] for row in rows)
    wait = statistics.median(row["data_wait_fraction"] for row in rows)
    return [
        {
            "name": f"{ENCODER} {SIZE_PX} px, batch {BATCH}: loop against bare step",
            "measured": round(loop / bare, 2),
            "target": 0.9,
            "detail": f"{loop:.1f} against {bare:.1f} images/s, data wait {wait:.1%}",
        }
    ]
