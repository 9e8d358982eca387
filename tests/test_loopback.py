"""What is started on one machine lets no other reach it."""

import ipaddress
import os
import subprocess
import sys
import time
from pathlib import Path

from jobs.local_s3 import LocalS3
from tests.files import ROOT
from tests.images import write_shards
from tests.processes import own_processes
from tests.sockets import listening

TRAIN = """
    --data.resize-px 40 --data.crop-px 32 --model.encoder resnet18 --model.weights none
    --optim.batch-size 8 --optim.epochs 1000 --optim.max-steps 4 --scaling.num-workers 2
    --scaling.cpus-per-worker 0.5 --run.polarity-images 8 --run.name local
""".split()


def test_no_process_of_a_training_run_listens_beyond_this_machine(tmp_path: Path):
    shards = write_shards(tmp_path / "shards", 32)
    command = [sys.executable, "jobs/train.py", "--data.train", shards, *TRAIN]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [*command, "--run.storage", str(tmp_path)],
            env={**kept, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        seen: set[tuple[str, str]] = set()
        while job.poll() is None:
            seen |= listening(job.pid)
            time.sleep(0.7)  # looking takes time that the run needs
    assert job.returncode == 0, (tmp_path / "log").read_text()
    started = " ".join(command for command, _ in seen)
    assert all(name in started for name in ("gcs_server", "raylet", "RayTrainWorker")), started
    assert {name for name in seen if not ipaddress.ip_address(name[1]).is_loopback} == set()


def test_the_local_s3_server_listens_on_this_machine_alone(s3: LocalS3):
    seen = {name for pid in own_processes("weed") for name in listening(pid)}
    assert seen
    assert {name for name in seen if not ipaddress.ip_address(name[1]).is_loopback} == set()
