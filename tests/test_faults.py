"""Processes killed with SIGKILL while they work."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from c2am_dist import checkpoint
from c2am_dist.config import TrainConfig, override
from c2am_dist.training import fit
from tests.images import write_shards
from tests.processes import own_processes
from tests.test_training import BASE


def _wait(is_so: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def test_training_goes_on_from_the_last_checkpoint_when_a_worker_is_killed(
    ray_cluster, tmp_path: Path
):
    values = {
        **BASE,
        "data.train": (write_shards(tmp_path / "shards", 24),),
        "optim.max_steps": 60,
        "run.checkpoint_every": 10,
        "run.storage": str(tmp_path),
        "run.name": "killed",
        "run.max_failures": 1,
    }
    run = tmp_path / "killed"
    training = threading.Thread(target=fit, args=(override(TrainConfig(), values),))
    training.start()
    _wait(lambda: bool(checkpoint.steps(str(run))), "a checkpoint")
    workers = own_processes("RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    died_at = checkpoint.latest_step(str(run)) or 0
    training.join()
    assert died_at < 60
    assert checkpoint.load(str(run / "checkpoint"))[0].step == 60
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
