"""Jobs on a cluster of several nodes while processes, nodes and the store are lost."""

import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from c2am_dist import checkpoint, storage
from c2am_dist.config import TrainConfig
from c2am_dist.data import label_set
from jobs.local_s3 import LocalS3
from tests.conftest import BASE
from tests.fault_proxy import FaultProxy
from tests.images import write_shards
from tests.processes import Job, own_processes
from tests.test_labeling import _model, _save

STEPS = BASE["optim.max_steps"]
# One worker a node, and a CPU beside it to decode.
NODE = {"num_cpus": 3, "object_store_memory": 200 * 2**20, "node_ip_address": "127.0.0.1"}
HEAD = {
    "num_cpus": 0,
    "object_store_memory": 100 * 2**20,
    "node_ip_address": "127.0.0.1",
    "dashboard_port": 0,
    "dashboard_agent_listen_port": None,  # any: the session's Ray has the usual one
    "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
}
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, see cli.init_ray
    # What hangs is given up after seconds, not minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "10",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}
NUM_IMAGES, NUM_SHARDS = 160, 8

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def between(s3: LocalS3) -> Iterator[FaultProxy]:
    """What stands between the cluster and the S3 server."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(s3: LocalS3, between: FaultProxy) -> Iterator[Cluster]:
    """A head that offers no CPU, and two worker nodes; all reach the store by the proxy."""
    with pytest.MonkeyPatch.context() as patch:
        reached = {"AWS_ENDPOINT_URL": between.endpoint}
        for name, value in (s3.environment | reached | ENVIRONMENT).items():
            patch.setenv(name, value)
        found = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            for _ in range(2):
                found.add_node(**NODE)
            yield found
        finally:
            found.shutdown()


def _replace_a_node(cluster: Cluster) -> None:
    """Loses one of the worker nodes, and brings another."""
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    cluster.add_node(**NODE)


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
    training = Training(cluster, two_workers_config, f"{tmp_path}/run", tmp_path / "log")
    training.start()
    reached = training.reach(1)
    os.kill(own_processes("RayTrainWorker")[1], signal.SIGKILL)
    training.reach(reached + 1)
    _replace_a_node(cluster)
    printed = training.end()
    assert printed.count("resuming at step") == 2
    assert _num_repeated(printed) <= 2
    training.assert_as(two_workers)


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced_and_does_not_count_after_a_new_checkpoint(
    cluster: Cluster, two_workers_config: TrainConfig, two_workers: Path, tmp_path: Path
):
    strict = {"run.max_failures": 0}
    training = Training(cluster, two_workers_config, f"{tmp_path}/run", tmp_path / "log", **strict)
    training.start()
    training.reach(1)
    hanging = own_processes("RayTrainWorker")[0]
    os.kill(hanging, signal.SIGSTOP)
    printed = training.end()
    assert not Path(f"/proc/{hanging}").exists(), "left behind"
    assert printed.count("resuming at step") == 1
    assert _num_repeated(printed) <= 1
    training.assert_as(two_workers)


@pytest.mark.slow
def test_elastic_training_goes_on_with_the_nodes_that_are_left(
    cluster: Cluster, two_workers_config: TrainConfig, two_workers: Path, tmp_path: Path
):
    elastic = {"scaling.num_workers": "1 3"}
    training = Training(cluster, two_workers_config, f"{tmp_path}/run", tmp_path / "log", **elastic)
    training.start()
    training.reach(1)
    assert len(own_processes("RayTrainWorker")) == 2
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    try:
        printed = training.end()
    finally:
        cluster.add_node(**NODE)
    assert printed.count("resuming at step") == 1
    assert _num_repeated(printed) <= 1
    training.assert_as(two_workers, atol=1e-3)


@pytest.mark.slow
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
    training = Training(cluster, two_workers_config, f"{bucket}/run", tmp_path / "log")
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


def _refuse(between: FaultProxy) -> None:
    between.inject("denied", times=None, method="PUT", path=r"step-0000000[2-6]/checkpoint.pt")


def _fill_the_disk(between: FaultProxy) -> None:
    for worker in own_processes("RayTrainWorker"):
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (2**20, 2**20))


@pytest.mark.slow
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
    training = Training(cluster, two_workers_config, run, tmp_path / "log")
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


def _kill_for_a_while(s3: LocalS3, between: FaultProxy, job: Job) -> None:
    """Kills the store, and starts it again when some requests have failed."""
    s3.kill()
    try:
        num_requests = len(between.requests)
        job.until(lambda: len(between.requests) > num_requests + 2)
        time.sleep(2)
    finally:
        s3.start()


@pytest.mark.slow
def test_training_waits_for_a_store_that_is_killed(
    cluster: Cluster,
    s3: LocalS3,
    between: FaultProxy,
    bucket: str,
    two_workers_config: TrainConfig,
    two_workers: Path,
    tmp_path: Path,
):
    training = Training(cluster, two_workers_config, f"{bucket}/run", tmp_path / "log")
    training.start()
    training.reach(1)
    _kill_for_a_while(s3, between, training)
    assert "resuming" not in training.end()
    training.assert_as(two_workers)


class Labeling(Job):
    """Label files on the store, or on the disk, of shards on the store."""

    def __init__(self, cluster: Cluster, trained: str, shards: str, output: str, log: Path):
        flags = f"--checkpoint {trained} --input {shards} --output {output}"
        flags += " --batch-size 4 --size-px 128 --num-actors 2"
        super().__init__("label", flags.split(), log, cluster.address)
        self.output = output

    def reach(self, num_files: int) -> None:
        """Waits for some label files, well before the last one."""
        self.until(lambda: self._num_files() >= num_files)
        assert self._num_files() < NUM_SHARDS - 1, "too late to show anything"

    def _num_files(self) -> int:
        return len([f for f in storage.walk(self.output) if f.uri.endswith(".parquet")])

    def labels(self) -> list[label_set.LabelFile]:
        """The digests in `_SUCCESS`, of files that are there and whole."""
        label_set.expand([self.output])
        listed = label_set.sealed(self.output)
        assert listed and sum(file.num_rows for file in listed) == NUM_IMAGES
        return listed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    _save(folder, _model())
    return str(folder)


@pytest.fixture(scope="module")
def shards_on_the_store(
    cluster: Cluster, s3: LocalS3, tmp_path_factory: pytest.TempPathFactory
) -> str:
    bucket = s3.new_bucket()
    folder = Path(write_shards(tmp_path_factory.mktemp("s"), NUM_IMAGES, num_files=NUM_SHARDS))
    for path in folder.glob("*.parquet"):
        storage.write_bytes(f"{bucket}/shards/{path.name}", path.read_bytes())
    return f"{bucket}/shards"


@pytest.fixture(scope="module")
def undisturbed_labels(
    cluster: Cluster,
    trained: str,
    shards_on_the_store: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[label_set.LabelFile]:
    folder = tmp_path_factory.mktemp("labels")
    job = Labeling(cluster, trained, shards_on_the_store, f"{folder}/out", folder / "log")
    job.start()
    job.end()
    return job.labels()


@pytest.mark.slow
def test_labels_are_the_same_after_a_killed_actor_and_a_lost_node(
    cluster: Cluster,
    trained: str,
    shards_on_the_store: str,
    undisturbed_labels: list[label_set.LabelFile],
    tmp_path: Path,
):
    job = Labeling(cluster, trained, shards_on_the_store, f"{tmp_path}/out", tmp_path / "log")
    job.start()
    job.reach(1)
    os.kill(own_processes("MapWorker")[0], signal.SIGKILL)
    job.reach(3)
    _replace_a_node(cluster)
    job.end()
    assert job.labels() == undisturbed_labels


@pytest.mark.slow
def test_labels_are_the_same_after_the_store_was_killed(
    cluster: Cluster,
    s3: LocalS3,
    between: FaultProxy,
    bucket: str,
    trained: str,
    shards_on_the_store: str,
    undisturbed_labels: list[label_set.LabelFile],
    tmp_path: Path,
):
    job = Labeling(cluster, trained, shards_on_the_store, f"{bucket}/out", tmp_path / "log")
    job.start()
    job.reach(2)
    _kill_for_a_while(s3, between, job)
    job.end()
    assert job.labels() == undisturbed_labels
