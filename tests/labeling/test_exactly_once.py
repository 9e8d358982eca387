"""Labeling jobs killed with SIGKILL at any moment and started again."""

import random
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from c2am_dist.data import label_set
from c2am_dist.labeling import label
from tests.images import write_shards
from tests.labeling.sets import make_config
from tests.processes import Job

NUM_IMAGES, NUM_SHARDS = 240, 12
BATCH, SIZE_PX = 4, 128  # enough work to be killed in the middle of


class Labeling(Job):
    """`python jobs/label.py` as a process of its own, on the session's Ray."""

    def __init__(self, checkpoint: Path, images: Path, output: Path) -> None:
        flags = f"--checkpoint {checkpoint} --input {images} --output {output}"
        flags += f" --batch-size {BATCH} --size-px {SIZE_PX} --num-actors 1"
        log = output.with_name("log")
        super().__init__("label", flags.split(), log, ray.get_runtime_context().gcs_address)
        self.output = output

    def num_finished(self) -> int:
        return len(list(self.output.rglob("*.parquet")))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    broken = {7: b"no picture", 100: b""}
    folder = tmp_path_factory.mktemp("images")
    return Path(write_shards(folder, NUM_IMAGES, num_files=NUM_SHARDS, broken=broken))


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster, trained: Path, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished label folder."""
    output = tmp_path_factory.mktemp("labels") / "undisturbed"
    changes = {"batch_size": BATCH, "size_px": SIZE_PX}
    config = make_config(trained, images, output, **changes)
    assert label(config).num_new == NUM_IMAGES
    return output


def _assert_same(output: Path, undisturbed: Path) -> None:
    """The same files with the same bytes, and nothing else, not even a hidden file."""
    names = sorted(str(p.relative_to(undisturbed)) for p in undisturbed.rglob("*") if p.is_file())
    assert sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()) == names
    for name in names:
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name


def _assert_whole(output: Path) -> None:
    """No label file in view is half written, and no set without ``_SUCCESS`` is taken for one."""
    for path in output.rglob("*.parquet"):
        assert pq.read_table(path).num_rows == NUM_IMAGES // NUM_SHARDS
    if output.exists() and not (output / label_set.SUCCESS).exists() and any(output.iterdir()):
        with pytest.raises((ValueError, OSError)):
            label_set.expand([str(output)])


def _kill_at_a_random_moment(job: Labeling, rng: random.Random) -> None:
    """Kills it within ten seconds of its first sign of life, the folder's plan, or before."""
    job.start()
    if rng.random() < 0.8:
        while not (job.output / label_set.PLAN).exists() and job.is_running():
            time.sleep(0.01)
    time.sleep(rng.uniform(0, 10))
    job.kill()
    _assert_whole(job.output)


def test_a_driver_killed_twice_leaves_what_an_undisturbed_one_does(
    undisturbed: Path, trained: Path, images: Path, tmp_path: Path
):
    with Labeling(trained, images, tmp_path / "labels") as job:
        _kill_at_a_random_moment(job, random.Random(0))
        job.start()
        job.until(lambda: job.num_finished() >= 2)
        job.kill()
        _assert_whole(job.output)
        time.sleep(1)  # a write that had begun may still end
        there = {path: path.stat().st_mtime_ns for path in job.output.rglob("*.parquet")}
        assert 2 <= len(there) < NUM_SHARDS, "killed too late to show anything"
        job.start()
        printed = job.end()
        assert f"{len(there)} of {NUM_SHARDS} label files are there already" in printed
        assert {path: path.stat().st_mtime_ns for path in there} == there, "labeled again"
        _assert_same(job.output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_driver_killed_at_any_moment_leaves_what_an_undisturbed_one_does(
    undisturbed: Path, trained: Path, images: Path, tmp_path: Path, seed: int
):
    with Labeling(trained, images, tmp_path / "labels") as job:
        _kill_at_a_random_moment(job, random.Random(100 + seed))
        job.start()
        job.end()
        _assert_same(job.output, undisturbed)
