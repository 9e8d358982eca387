"""Labeling jobs killed with SIGKILL at any moment and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from c2am_dist import storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import label_set
from c2am_dist.labeling import label
from tests.images import write_shards
from tests.test_labeling import _model, _save

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES, NUM_SHARDS = 240, 12
BATCH, SIZE_PX = 4, 128  # enough work to be killed in the middle of


class Job:
    """`python jobs/label.py` as a process of its own, on the session's Ray."""

    def __init__(self, checkpoint: Path, image_set: str, output: Path) -> None:
        self.output = output
        flags = f"--checkpoint {checkpoint} --input {image_set} --output {output}"
        flags += f" --batch-size {BATCH} --size-px {SIZE_PX}"
        self.command = [sys.executable, "jobs/label.py", *flags.split()]

    def start(self) -> subprocess.Popen[str]:
        address = ray.get_runtime_context().gcs_address
        return subprocess.Popen(
            self.command,
            env=os.environ | {"RAY_ADDRESS": address},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> str:
        process = self.start()
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def num_finished(self) -> int:
        return len(list(self.output.rglob("*.parquet")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    _save(folder, _model())
    return folder


@pytest.fixture(scope="module")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    broken = {7: b"no picture", 100: b""}
    folder = tmp_path_factory.mktemp("images")
    return write_shards(folder, NUM_IMAGES, num_files=NUM_SHARDS, broken=broken)


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster, trained: Path, image_set: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished label folder."""
    output = tmp_path_factory.mktemp("labels") / "undisturbed"
    assert label(_config(trained, image_set, output)).num_new == NUM_IMAGES
    return output


def _config(trained: Path, image_set: str, output: Path) -> LabelConfig:
    return LabelConfig(
        checkpoint=str(trained),
        input=(image_set,),
        output=str(output),
        batch_size=BATCH,
        size_px=SIZE_PX,
    )


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


def _kill_at_a_random_moment(job: Job, rng: random.Random) -> None:
    """Kills it within ten seconds of its first sign of life, the folder's plan, or before."""
    process = job.start()
    if rng.random() < 0.8:
        while not (job.output / label_set.PLAN).exists() and process.poll() is None:
            time.sleep(0.01)
    time.sleep(rng.uniform(0, 10))
    process.kill()
    process.communicate()
    _assert_whole(job.output)


def test_a_driver_killed_twice_leaves_what_an_undisturbed_one_does(
    undisturbed: Path, trained: Path, image_set: str, tmp_path: Path
):
    job = Job(trained, image_set, tmp_path / "labels")
    _kill_at_a_random_moment(job, random.Random(0))
    process = job.start()
    while job.num_finished() < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    _assert_whole(job.output)
    time.sleep(1)  # a write that had begun may still end
    there = {path: path.stat().st_mtime_ns for path in job.output.rglob("*.parquet")}
    assert 2 <= len(there) < NUM_SHARDS, "killed too late to show anything"
    printed = job.run()
    assert f"{len(there)} of {NUM_SHARDS} label files are there already" in printed
    assert {path: path.stat().st_mtime_ns for path in there} == there, "labeled again"
    _assert_same(job.output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_driver_killed_at_any_moment_leaves_what_an_undisturbed_one_does(
    undisturbed: Path, trained: Path, image_set: str, tmp_path: Path, seed: int
):
    job = Job(trained, image_set, tmp_path / "labels")
    _kill_at_a_random_moment(job, random.Random(100 + seed))
    job.run()
    _assert_same(job.output, undisturbed)


def test_a_half_written_file_of_a_killed_job_is_swept_away(
    undisturbed: Path, trained: Path, image_set: str, tmp_path: Path
):
    output = tmp_path / "labels"
    code = (
        "import os, signal, sys\n"
        "from c2am_dist import storage\n"
        "with storage.create(sys.argv[1]) as stream:\n"
        "    stream.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = storage.join(str(output), "shard-00000.parquet")
    killed = subprocess.run([sys.executable, "-c", code, target], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert list(output.iterdir()), "nothing was left to sweep"
    assert not storage.walk(str(output)), "a half-written file is in view"
    label(_config(trained, image_set, output))
    _assert_same(output, undisturbed)
