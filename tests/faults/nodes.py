"""The nodes of a cluster on this machine, and how they and the store are lost."""

import time

from ray.cluster_utils import Cluster

from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.processes import Job

# One worker a node, and a CPU beside it to decode.
NODE = {"num_cpus": 3, "object_store_memory": 200 * 2**20, "node_ip_address": "127.0.0.1"}
HEAD = {
    "num_cpus": 0,
    "object_store_memory": 100 * 2**20,
    "node_ip_address": "127.0.0.1",
    "dashboard_port": 0,
    "dashboard_agent_listen_port": None,  # any: the session's Ray has the usual one
    # A silent node is lost after 5 s; sooner, a machine that is merely busy would lose some.
    "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
}
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, see cli.init_ray
    # What hangs is given up after seconds, not minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "10",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}


def replace_a_node(cluster: Cluster) -> None:
    """Loses one of the worker nodes, and brings another."""
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    cluster.add_node(**NODE)


def kill_for_a_while(s3: LocalS3, between: FaultProxy, job: Job) -> None:
    """Kills the store, and starts it again when some requests have failed."""
    s3.kill()
    try:
        num_requests = len(between.requests)
        job.until(lambda: len(between.requests) > num_requests + 2)
        time.sleep(2)
    finally:
        s3.start()
