"""Peak memory and spilled bytes while labeling a set five times the object store.

Memory is the proportional set size (each shared page counted once) of this process and of all
that Ray started, the object store included, sampled every second between the first finished
label file and the last. It is flat when the second half peaks no higher than the first.
"""

import contextlib
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from c2am_dist.config import LabelConfig
from c2am_dist.labeling.job import label
from tests.bench.cluster import local_ray
from tests.bench.labeling import PRECISION, save_model, write_shards

ENCODER, SIZE_PX, BATCH = "resnet18", 112, 32
STORE_BYTES = 160 * 2**20  # of which the model takes 43 MiB
SHARD_IMAGES = 128
NUM_SAMPLES, SAMPLES_BYTES = 240, 27.9e6  # the ImageNet samples
PERIOD_S = 1.0


def _tree() -> list[int]:
    """This process and all below it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # processes come and go
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    tree = [int(Path("/proc/self").resolve().name)]
    for pid in tree:  # grows while it is walked
        tree += parents.get(pid, [])
    return tree


def _memory_bytes() -> int:
    total = 0
    for pid in _tree():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += 1024 * sum(int(kib) for kib in re.findall(r"^Pss: +(\d+)", rollup, re.M))
    return total


@contextlib.contextmanager
def _sampled(output: Path) -> Iterator[list[int]]:
    """Memory in bytes, once a period, from the first file in the output folder on."""
    samples: list[int] = []
    is_done = threading.Event()

    def sample() -> None:
        while not is_done.wait(PERIOD_S):
            if any(output.glob("*.parquet")):
                samples.append(_memory_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_done.set()
        thread.join()


def _spilled_mib() -> int:
    """What Ray's nodes have spilled since they started."""
    import ray
    from ray._private.internal_api import memory_summary

    address = ray.get_runtime_context().gcs_address  # others may run on this machine
    found = re.search(r"Spilled (\d+) MiB", memory_summary(address, stats_only=True))
    return int(found[1]) if found else 0


def run() -> list[dict]:
    num_images = int(5 * STORE_BYTES / (SAMPLES_BYTES / NUM_SAMPLES))
    with (
        local_ray(object_store_bytes=STORE_BYTES) as cpus,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        write_shards(folder / "shards", -(-num_images // SHARD_IMAGES), SHARD_IMAGES)
        size = sum(file.stat().st_size for file in (folder / "shards").iterdir())
        save_model(folder / "model", ENCODER)
        config = LabelConfig(
            checkpoint=str(folder / "model"),
            input=(str(folder / "shards"),),
            output=str(folder / "labels"),
            size_px=SIZE_PX,
            batch_size=BATCH,
            precision=PRECISION,
        )
        with _sampled(folder / "labels") as samples:
            report = label(config)
        spilled_mib = _spilled_mib()
    half = len(samples) // 2
    first, second = max(samples[:half]), max(samples[half:])
    detail = (
        f"{report.num_images} images, {size / 2**20:.0f} MiB, object store "
        f"{STORE_BYTES / 2**20:.0f} MiB, {ENCODER} at {SIZE_PX} px, {cpus} CPUs, "
        f"{report.elapsed_s:.0f} s, {len(samples)} samples"
    )
    return [
        {"name": "labeling: spilled MiB", "measured": spilled_mib, "target": 0, "detail": detail},
        {
            "name": "labeling: peak memory, second half / first half (at most)",
            "measured": round(second / first, 2),
            "target": 1.1,
            "detail": detail,
        },
        {
            "name": "labeling: peak memory in MiB, all processes",
            "measured": round(max(samples) / 2**20),
            "target": None,
            "detail": detail,
        },
    ]
