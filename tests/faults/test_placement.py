"""Where the stages of a job run, on a cluster of CPU nodes and a GPU node."""

import re
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.faults.nodes import NODE
from tests.images import write_shards
from tests.processes import Job

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def _ran_on(cluster: Cluster, what: str) -> set[str]:
    """Ids of the nodes whose workers have logged that they begin a task, or are an actor."""
    assert cluster.head_node is not None
    logs = Path(cluster.head_node.get_logs_dir_path())
    nodes = set()
    for printed in logs.glob("worker-*.out"):
        if what in printed.read_text(errors="replace").splitlines():
            worker_id = printed.name.split("-")[1]
            (log,) = logs.glob(f"python-core-worker-{worker_id}_*.log")
            nodes |= set(re.findall(rf"worker_id={worker_id} node_id=(\w+)", log.read_text()))
    return nodes


def test_decoding_goes_to_nodes_without_a_gpu_and_the_model_to_the_one_with(
    cluster: Cluster, trained: Path, tmp_path: Path
):
    """The GPU is Ray's only; where torch sees none, the actor computes on the CPU."""
    # Four tasks that decode, for which two CPU nodes have room.
    shards = write_shards(tmp_path / "shards", 4 * 32, num_files=4)
    flags = f"--checkpoint {trained} --input {shards} --output {tmp_path}/labels"
    flags += " --batch-size 4 --size-px 64 --use-gpu True --num-actors 1"
    gpu_node = cluster.add_node(**NODE | {"num_cpus": 2, "num_gpus": 1})
    try:
        with Job("label", flags.split(), tmp_path / "log", cluster.address) as job:
            job.start()
            assert "128 images in 4 files, 0 with errors" in job.end()
    finally:
        cluster.remove_node(gpu_node)
    assert _ran_on(cluster, ":actor_name:MapWorker(MapBatches(Forward))") == {gpu_node.node_id}
    decoded = _ran_on(cluster, ":task_name:MapBatches(decode)")
    assert decoded and gpu_node.node_id not in decoded
