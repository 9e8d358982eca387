"""Training on a cluster of several nodes while processes, nodes and the store are lost."""

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from c2am_dist import checkpoint, storage
from c2am_dist.config import TrainConfig
from jobs.local_s3 import LocalS3
from tests.conftest import BASE
from tests.fault_proxy import FaultProxy
from tests.faults.nodes import NODE, kill_for_a_while, replace_a_node
from tests.processes import Job, has_open, own_processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STEPS = BASE["optim.max_steps"]


class Training(Job):
    """The run of two workers, into another folder and with a checkpoint at every step."""

    def __init__(
        self, cluster: Cluster, config: TrainConfig, run: str, log: Path, **changes: object
    ) -> None:
        parent, _, name = run.rpartition("/")
        ours = {
            "data.train": config.data.train[0],
            "run.storage": parent,
            "run.name": name,
            "run.checkpoint_every": 1,
            "run.keep_checkpoints": 100,
            "run.max_failures": 3,
            "scaling.cpus_per_worker": 2,
        }
        flags = [
            part
            for path, value in {**BASE, **ours, **changes}.items()
            for part in (f"--{path.replace('_', '-')}", *str(value).split())
        ]
        super().__init__("train", flags, log, cluster.address)
        self.run = run

    def reach(self, step: int) -> int:
        """Waits for a checkpoint of that step or a later one; the step, well before the end."""
        self.until(lambda: (checkpoint.latest_step(self.run) or 0) >= step)
        reached = checkpoint.latest_step(self.run) or 0
        assert reached < STEPS - 1, "too late to show anything"
        return reached

    def num_resumed(self) -> int:
        return self.log.read_text().count("resuming at step")

    def assert_as(self, undisturbed: Path, atol: float = 0.0) -> None:
        """Every step was logged once, and the weights are those of the undisturbed run."""
        rows = storage.read_bytes(f"{self.run}/metrics.jsonl").decode().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(1, STEPS + 1))
        expected = checkpoint.load(f"{undisturbed}/checkpoint")[0].model
        found = checkpoint.load(f"{self.run}/checkpoint")[0].model
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


def _num_repeated(printed: str) -> int:
    """Steps that were trained more than once."""
    steps = re.findall(r"step (\d+)/", printed)
    return len(steps) - len(set(steps))


def test_a_killed_worker_and_a_lost_node_change_nothing(
    cluster: Cluster, two_workers_config: TrainConfig, two_workers: Path, tmp_path: Path
):
    with Training(cluster, two_workers_config, f"{tmp_path}/run", tmp_path / "log") as training:
        training.start()
        reached = training.reach(1)
        os.kill(own_processes("RayTrainWorker")[1], signal.SIGKILL)
        training.reach(reached + 1)
        replace_a_node(cluster)
        printed = training.end()
        assert printed.count("resuming at step") == 2
        assert _num_repeated(printed) <= 2
        training.assert_as(two_workers)


def test_a_worker_that_hangs_is_replaced_and_does_not_count_after_a_new_checkpoint(
    cluster: Cluster, two_workers_config: TrainConfig, two_workers: Path, tmp_path: Path
):
    strict = {"run.max_failures": 0}
    with Training(
        cluster, two_workers_config, f"{tmp_path}/run", tmp_path / "log", **strict
    ) as training:
        training.start()
        training.reach(1)
        hanging = own_processes("RayTrainWorker")[0]
        os.kill(hanging, signal.SIGSTOP)
        printed = training.end()
        assert not Path(f"/proc/{hanging}").exists(), "left behind"
        assert printed.count("resuming at step") == 1
        assert _num_repeated(printed) <= 1
        training.assert_as(two_workers)


def test_elastic_training_goes_on_with_the_nodes_that_are_left_and_takes_one_that_comes(
    cluster: Cluster,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
):
    elastic = {"scaling.num_workers": "1 3"}
    with Training(
        cluster, two_workers_config, f"{bucket}/run", tmp_path / "log", **elastic
    ) as training:
        training.start()
        training.reach(1)
        assert len(own_processes("RayTrainWorker")) == 2
        # Ray Train looks for new nodes every minute, so six steps have to take longer.
        between.inject("delay", times=None, delay_s=6, method="PUT", path=rf"{bucket[4:]}/run/")
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        try:
            training.until(lambda: training.num_resumed() == 1)
            training.until(lambda: len(own_processes("RayTrainWorker")) == 1)
        finally:
            cluster.add_node(**NODE)
        training.until(lambda: training.num_resumed() == 2)
        training.until(lambda: len(own_processes("RayTrainWorker")) == 2)
        between.clear()
        printed = training.end()
        assert training.num_resumed() == 2
        assert _num_repeated(printed) <= 2
        training.assert_as(two_workers, atol=1e-3)


@pytest.mark.parametrize("target", [r"step-\d+/checkpoint.pt", "metrics.jsonl"])
def test_a_driver_killed_while_it_writes_goes_on_from_the_last_checkpoint(
    cluster: Cluster,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
    target: str,
):
    with Training(cluster, two_workers_config, f"{bucket}/run", tmp_path / "log") as training:
        training.start()
        training.reach(1)
        held = between.inject(
            "delay", delay_s=60, method="PUT", path=rf"{bucket[4:]}/run/(.*/)?{target}"
        )
        training.until(lambda: held.injected > 0)
        reached = checkpoint.latest_step(training.run)
        training.kill()
        first = training.log.read_text()
        training.start()
        printed = training.end()
        assert f"resuming at step {reached} of {STEPS}" in printed
        assert _num_repeated(first + printed) <= 1
        assert not [request for request in between.requests if "validate_storage" in request]
        training.assert_as(two_workers)


PARTIAL = {
    "store": r"/(#\d+|tmp\w+) \(deleted\)$",
    "disk": r"/run/checkpoints/step-\d+/\.\w+\.partial$",
}
"""What a worker has open while it writes a checkpoint: to a store, an unnamed temporary file."""


def _stop_while_it_writes(training: Training, partial: str) -> int:
    """Stops the worker that writes a checkpoint, before that is whole; its process id."""
    found: list[int] = []

    def is_stopped() -> bool:
        for worker in own_processes("RayTrainWorker"):
            if has_open(worker, partial):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(0.1)
                if has_open(worker, partial):
                    found.append(worker)
                    return True
                os.kill(worker, signal.SIGCONT)
        return False

    training.until(is_stopped)
    return found[0]


@pytest.mark.parametrize("place", ["store", "disk"])
def test_a_worker_killed_while_it_writes_a_checkpoint_leaves_the_one_before(
    cluster: Cluster,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
    place: str,
):
    run = f"{bucket if place == 'store' else tmp_path}/run"
    with Training(cluster, two_workers_config, run, tmp_path / "log") as training:
        training.start()
        training.reach(1)
        if place == "store":
            held = between.inject(
                "delay", delay_s=60, method="PUT", path=rf"{run[4:]}/.*/checkpoint.pt"
            )
            training.until(lambda: held.injected > 0)
        writer = _stop_while_it_writes(training, PARTIAL[place])
        reached = checkpoint.latest_step(run)
        os.kill(writer, signal.SIGKILL)
        printed = training.end()
        assert training.num_resumed() == 1
        assert f"resuming at step {reached} of {STEPS}" in printed
        assert _num_repeated(printed) <= 1
        training.assert_as(two_workers)
        assert not list(tmp_path.rglob("*.partial")), "left behind"


def _refuse(between: FaultProxy) -> None:
    between.inject("denied", times=None, method="PUT", path=r"step-0000000[2-6]/checkpoint.pt")


def _fill_the_disk(between: FaultProxy) -> None:
    """A limit on the size of files, which needs no disk to fill: EFBIG in place of ENOSPC.

    Both are errors of the same write, and nothing here tells them apart.
    """
    for worker in own_processes("RayTrainWorker"):
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (2**20, 2**20))


@pytest.mark.parametrize(
    ("place", "fault", "reason"),
    [("store", _refuse, "access denied"), ("disk", _fill_the_disk, "File too large")],
)
def test_a_checkpoint_that_is_not_taken_ends_training_and_keeps_the_one_before(
    cluster: Cluster,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
    place: str,
    fault: Callable[[FaultProxy], None],
    reason: str,
):
    run = f"{bucket if place == 'store' else tmp_path}/run"
    with Training(cluster, two_workers_config, run, tmp_path / "log") as training:
        training.start()
        reached = training.reach(1)
        fault(between)
        printed = training.end(status=1)
        refused = rf"^error: .*{run}/checkpoints/step-0000000(.)/checkpoint.pt: {reason}"
        named = re.search(refused, printed, re.MULTILINE)
        assert named, printed
        assert "resuming" not in printed, "tried again, though it can but fail"
        assert reached <= int(named[1]) - 1 == checkpoint.latest_step(run)
        between.clear()
        training.start()
        assert f"resuming at step {int(named[1]) - 1} of {STEPS}" in training.end()
        training.assert_as(two_workers)


def test_training_waits_for_a_store_that_is_killed(
    cluster: Cluster,
    s3: LocalS3,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
):
    with Training(cluster, two_workers_config, f"{bucket}/run", tmp_path / "log") as training:
        training.start()
        training.reach(1)
        kill_for_a_while(s3, between, training)
        assert "resuming" not in training.end()
        training.assert_as(two_workers)
