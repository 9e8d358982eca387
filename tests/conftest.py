"""Shared fixtures: where the data of ../shared lies, small generated shards, one Ray cluster."""

import os
from pathlib import Path

import pytest

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
