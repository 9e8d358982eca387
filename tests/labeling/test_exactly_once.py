"""Labeling jobs killed with SIGKILL at any moment and started again."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.parquet as pq
import pytest
import ray

from c2am_dist.data import label_set
from c2am_dist.labeling import label
from tests.images import write_shards
from tests.labeling.sets import make_config
from tests.processes import Job, own_processes

NUM_IMAGES, NUM_SHARDS = 240, 12
BATCH, SIZE_PX = 4, 128  # enough work to be killed in the middle of
SEEDS = range(20)


class Labeling(Job):
    """`python jobs/label.py` as a process of its own, on the session's Ray."""

    def __init__(self, checkpoint: Path, images: Path, output: Path) -> None:
        flags = f"--checkpoint {checkpoint} --input {images} --output {output}"
        flags += f" --batch-size {BATCH} --size-px {SIZE_PX} --num-actors 1"
        log = output.with_name("log")
        super().__init__("label", flags.split(), log, ray.get_runtime_context().gcs_address)
        self.output = output

    def start(self) -> None:
        self.others = set(own_processes("MapWorker"))
        super().start()

    def actors(self) -> list[int]:
        """Ids of the processes that hold the model for it."""
        return [pid for pid in own_processes("MapWorker") if pid not in self.others]

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


class Kill(NamedTuple):
    """Who is killed, and when: after so many label files, and then so many seconds."""

    target: Literal["driver", "actor"]
    num_files: int
    """-1: counted from the driver's start; 0: from the plan, or from the actor's start."""
    delay_s: float


def draw(seed: int) -> Kill:
    """A moment of a job's life: seeds take turns at its phases, within which it is random.

    Delays are shorter than what a job still has to do then, since one that has ended shows nothing.
    """
    rng = random.Random(seed)
    labeling = rng.randint(1, NUM_SHARDS - 3)
    phases: list[tuple[Literal["driver", "actor"], int, float]] = [
        ("driver", -1, 4.0),
        ("actor", labeling, 0.2),
        ("driver", labeling, 0.2),
        ("actor", 0, 3.0),
        ("driver", 0, 3.0),
        ("driver", NUM_SHARDS, 0.0),
    ]
    target, num_files, longest_s = phases[seed % len(phases)]
    return Kill(target, num_files, rng.uniform(0, longest_s))


def _kill(job: Labeling, kill: Kill) -> None:
    """Kills the driver, or the process that holds the model, of a job that is running."""
    if kill.num_files == 0:
        # The plan is the folder's first sign of life.
        begun = (job.output / label_set.PLAN).exists
        job.until(begun if kill.target == "driver" else lambda: bool(job.actors()))
    job.until(lambda: job.num_finished() >= kill.num_files)
    time.sleep(kill.delay_s)
    assert job.is_running(), "killed too late to show anything"
    found = job.num_finished()
    when = "before" if not found else "within" if found < NUM_SHARDS else "after"
    print(f"{kill}: {when} labeling, {found} of {NUM_SHARDS} files there")
    if kill.target == "driver":
        job.kill()
    else:
        (actor,) = job.actors()
        os.kill(actor, signal.SIGKILL)
    _assert_whole(job.output)


def test_a_driver_and_an_actor_killed_leave_what_an_undisturbed_job_does(
    undisturbed: Path, trained: Path, images: Path, tmp_path: Path
):
    """Of one job: its driver before it labels, an actor at work, and the driver again."""
    with Labeling(trained, images, tmp_path / "labels") as job:
        job.start()
        _kill(job, Kill("driver", -1, random.Random(0).uniform(0, 4)))
        job.start()
        _kill(job, Kill("actor", 2, random.Random(1).uniform(0, 0.2)))
        _kill(job, Kill("driver", 4, random.Random(2).uniform(0, 0.2)))
        time.sleep(1)  # a write that had begun may still end
        there = {path: path.stat().st_mtime_ns for path in job.output.rglob("*.parquet")}
        assert 4 <= len(there) < NUM_SHARDS, "killed too late to show anything"
        job.start()
        printed = job.end()
        assert f"{len(there)} of {NUM_SHARDS} label files are there already" in printed
        assert {path: path.stat().st_mtime_ns for path in there} == there, "labeled again"
        _assert_same(job.output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_killed_at_any_moment_leaves_what_an_undisturbed_one_does(
    undisturbed: Path, trained: Path, images: Path, tmp_path: Path, seed: int
):
    """With ``-rP`` it is shown who was killed, and whether before, within or after labeling."""
    kill = draw(seed)
    with Labeling(trained, images, tmp_path / "labels") as job:
        job.start()
        _kill(job, kill)
        if kill.target == "driver":
            job.start()
        job.end()
        _assert_same(job.output, undisturbed)
