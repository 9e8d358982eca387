"""What the autoscaler would start, and when it lets go."""

import logging
from typing import Any

import pytest
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent  # type: ignore

from tests.cluster_files.files import (
    CLOUDS,
    CLUSTERS,
    GROUPS,
    OPERATIONS,
    autoscaling,
    load,
    machine,
)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_head_offers_nothing_to_work_on(cluster: str):
    config = autoscaling(cluster)
    resources = config.get_node_resources(config.get_head_node_type())
    assert resources["CPU"] == 0 and "GPU" not in resources
    if cluster in CLOUDS:
        assert "--num-cpus=0 " in load(cluster)["head_start_ray_commands"][-1]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_idle_groups_go_away_and_none_grows_without_end(cluster: str):
    config = autoscaling(cluster)
    types = config.get_node_type_configs()
    assert set(GROUPS) == types.keys() - {config.get_head_node_type()}
    for group in GROUPS:
        assert types[group].min_worker_nodes == 0 < types[group].max_worker_nodes <= 8
        timeout_s = types[group].idle_timeout_s or config.get_idle_timeout_s() or 0
        assert 60 <= timeout_s <= 900
    assert config.get_max_num_worker_nodes() == sum(types[g].max_worker_nodes for g in GROUPS)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_gpus_are_spot_and_their_fallback_is_the_same_on_demand(cluster: str):
    (spot, asked), (on_demand, asked_on_demand) = (machine(cluster, g) for g in GROUPS[1:])
    assert spot == "spot" and asked == asked_on_demand
    for other in (on_demand, machine(cluster, "head")[0], machine(cluster, "cpu")[0]):
        assert other != "spot"
    types = autoscaling(cluster).get_node_type_configs()
    assert types["gpu_spot"].resources == types["gpu_on_demand"].resources
    assert types["gpu_spot"].priority > types["gpu_on_demand"].priority


def launched(cluster: str, bundle: dict[str, float], count: int, spot: Any = None):
    """How many of each group the autoscaler starts for so many bundles.

    ``spot`` is what the autoscaler has just seen become of a spot machine.
    """
    config, monitor = autoscaling(cluster), CloudResourceMonitor()
    if spot is not None:
        event = {"instance_type": "gpu_spot", "new_instance_status": spot}
        monitor.notify([InstanceUpdateEvent(instance_id="one", **event)])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle)] * count
        ),
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    logger = AutoscalerEventLogger(logging.getLogger(__name__))  # type: ignore
    reply = ResourceDemandScheduler(logger).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


WORKER = {"GPU": 1.0, "CPU": 1.0}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_decoding_starts_no_gpu_and_training_takes_spot_until_that_is_full(cluster: str):
    types = autoscaling(cluster).get_node_type_configs()
    num_spot = types["gpu_spot"].max_worker_nodes
    assert launched(cluster, {"CPU": 1.0}, 20) == {"cpu": 2}
    assert launched(cluster, WORKER, num_spot) == {"gpu_spot": num_spot}
    expected = {"gpu_spot": num_spot, "gpu_on_demand": 2}
    assert launched(cluster, WORKER, num_spot + 2) == expected


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_docs_say_what_follows_a_spot_machine_that_does_not_come(cluster: str):
    """Ray turns to the other group after one that never joined, not after one refused."""
    assert launched(cluster, WORKER, 2, spot=Instance.ALLOCATION_TIMEOUT) == {"gpu_on_demand": 2}
    assert launched(cluster, WORKER, 2, spot=Instance.ALLOCATION_FAILED) == {"gpu_spot": 2}
    assert "A refused launch is not remembered" in OPERATIONS
