"""Labeling on a cluster of several nodes while processes, nodes and the store are lost."""

import os
import signal
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from c2am_dist import storage
from c2am_dist.data import label_set
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.faults.nodes import kill_for_a_while, replace_a_node
from tests.images import write_shards
from tests.processes import Job, own_processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NUM_IMAGES, NUM_SHARDS = 320, 8


class Labeling(Job):
    """Label files on the store, or on the disk, of shards on the store."""

    def __init__(self, cluster: Cluster, trained: Path, shards: str, output: str, log: Path):
        flags = f"--checkpoint {trained} --input {shards} --output {output}"
        # Half a minute of work: tasks that write start that much later than the actors.
        flags += " --batch-size 4 --size-px 320 --num-actors 2"
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
    trained: Path,
    shards_on_the_store: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[label_set.LabelFile]:
    folder = tmp_path_factory.mktemp("labels")
    with Labeling(cluster, trained, shards_on_the_store, f"{folder}/out", folder / "log") as job:
        job.start()
        job.end()
        return job.labels()


def test_labels_are_the_same_after_a_killed_actor_and_a_lost_node(
    cluster: Cluster,
    trained: Path,
    shards_on_the_store: str,
    undisturbed_labels: list[label_set.LabelFile],
    tmp_path: Path,
):
    with Labeling(
        cluster, trained, shards_on_the_store, f"{tmp_path}/out", tmp_path / "log"
    ) as job:
        job.start()
        job.until(lambda: bool(own_processes("MapWorker")))
        os.kill(own_processes("MapWorker")[0], signal.SIGKILL)
        job.reach(1)
        replace_a_node(cluster)
        job.end()
        assert job.labels() == undisturbed_labels


def test_labels_are_the_same_after_the_store_was_killed(
    cluster: Cluster,
    s3: LocalS3,
    between: FaultProxy,
    bucket: str,
    trained: Path,
    shards_on_the_store: str,
    undisturbed_labels: list[label_set.LabelFile],
    tmp_path: Path,
):
    with Labeling(cluster, trained, shards_on_the_store, f"{bucket}/out", tmp_path / "log") as job:
        job.start()
        job.reach(2)
        kill_for_a_while(s3, between, job)
        job.end()
        assert job.labels() == undisturbed_labels
