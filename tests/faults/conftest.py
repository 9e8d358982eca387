"""A cluster of several nodes, and the store it reaches through a proxy that makes faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.faults.nodes import ENVIRONMENT, HEAD, NODE


@pytest.fixture(scope="package")
def between(s3: LocalS3) -> Iterator[FaultProxy]:
    """What stands between the cluster and the S3 server."""
    with FaultProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="package")
def cluster(ray_cluster: Path, s3: LocalS3, between: FaultProxy) -> Iterator[Cluster]:
    """A head that offers no CPU, and two worker nodes; all reach the store by the proxy.

    After the session's Ray, which switches token authentication on for the jobs that tests start:
    a cluster without it would take their refusals for actors out of scope.
    """
    with pytest.MonkeyPatch.context() as patch:
        reached = {"AWS_ENDPOINT_URL": between.endpoint}
        for name, value in (s3.environment | reached | ENVIRONMENT).items():
            patch.setenv(name, value)
        # As a user has it: reports wait for it, and what is younger is lost.
        patch.delenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", raising=False)
        found = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            for _ in range(2):
                found.add_node(**NODE)
            yield found
        finally:
            found.shutdown()


@pytest.fixture
def bucket(cluster: Cluster, s3: LocalS3) -> str:
    """A new bucket, which this process, too, reaches through the proxy: so do nodes it adds."""
    return s3.new_bucket()
