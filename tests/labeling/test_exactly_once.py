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
from c2am_dist.labeling.job import label
from tests.images import write_shards
from tests.labeling.sets import make_config
from tests.processes import Job, own_processes

NUM_IMAGES, NUM_SHARDS = 240, 24
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
        self.others = set(own_processes("MapWorker"))

    def start(self) -> None:
        """Starts it, once the actors of a driver that was killed before are gone.

        One that was just starting appears a moment after its driver's end, and goes again.
        """
        self.kill()
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + 1:
            if self.actors():
                quiet_since = time.monotonic()
            time.sleep(0.05)
        super().start()

    def actors(self, doing: str = "") -> list[int]:
        """Ids of the processes that hold the model for it, or will.

        Args:
            doing: the method they run: ``.__init__``, or ``.submit`` while they label.
        """
        found = own_processes(f"MapWorker(MapBatches(decode)->MapBatches(Forward)){doing}")
        return [pid for pid in found if pid not in self.others]

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
    """Who is killed, and when: so many seconds after something has come about."""

    target: Literal["driver", "actor"]
    since: Literal["start", "plan", "actor", "work"] | int
    """The driver's start, its plan, the actor's process, its first batch, or this many files."""
    delay_s: float

    def is_time(self, job: Labeling) -> bool:
        if isinstance(self.since, int):
            return job.num_finished() >= self.since
        return {
            "start": True,
            "plan": (job.output / label_set.PLAN).exists(),  # the folder's first sign of life
            "actor": bool(job.actors()),
            "work": bool(job.actors(".submit")),
        }[self.since]


def draw(seed: int) -> Kill:
    """A moment of a job's life: seeds take turns at its phases, within which it is random.

    Delays are shorter than what a job still has to do then, since one that has ended shows nothing.
    So an actor's is counted from its first batch: it may be done before the first file is there,
    by processes that are only starting.
    """
    rng = random.Random(seed)
    phases = [
        Kill("driver", "start", 4.0),
        Kill("actor", "work", 2.0),
        Kill("driver", rng.randint(1, NUM_SHARDS // 2), 0.2),
        Kill("actor", "actor", 3.0),
        Kill("driver", "plan", 3.0),
        Kill("driver", NUM_SHARDS, 0.0),
    ]
    kill = phases[seed % len(phases)]
    return kill._replace(delay_s=rng.uniform(0, kill.delay_s))


def _kill(job: Labeling, kill: Kill) -> None:
    """Kills the driver, or the process that holds the model, of a job that is running."""
    job.until(lambda: kill.is_time(job))
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
        _kill(job, Kill("driver", "start", random.Random(0).uniform(0, 4)))
        job.start()
        _kill(job, Kill("actor", "work", random.Random(1).uniform(0, 2)))
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
