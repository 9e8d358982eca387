"""Dry runs: the arithmetic by hand, and what the jobs make of real footers."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import assumptions, cli, forecast
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import PRESETS, LabelConfig, TrainConfig, override
from c2am_dist.data import shards
from c2am_dist.forecast import Cluster, Forecast, ImageSet, Schedule, Workers
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.job import _image_set
from c2am_dist.storage import File
from c2am_dist.training.estimate import expected
from tests.files import ROOT
from tests.images import write_shards

IMAGES = ImageSet(num_images=1000, num_bytes=100_000_000, image_bytes=100_000.0)
PLAN = PlanConfig(network_gbps=8.0, images_per_cpu_s=100.0, gflops=1000.0)
CLUSTER = Cluster(num_machines=2, num_cpus=14, num_gpus=4)
WORKERS = Workers(number=4, on_gpus=True, num_decode_cpus=10, cluster=CLUSTER, plan=PLAN)
SCHEDULE = Schedule(
    steps=10,
    batch_size=100,
    crop_px=100,
    window_images=500,
    prefetch=2,
    flops=9e9,
    num_parameters=1_000_000,
    num_gathered=600,
)


def _seconds(found: Forecast) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found.stages}


def test_training_by_hand():
    found = forecast.training("run", IMAGES, SCHEDULE, WORKERS)
    # 25 images a worker, 75 rows of 600 float32 from the others; 3/4 of 4 MB twice.
    assert (found.gathered_bytes, found.gradient_bytes) == (180_000, 6_000_000)
    into_each = 25 * 30_000 + 2 * 180_000 + 6_000_000
    assert _seconds(found) == pytest.approx(
        {"read": 0.05, "decode": 1.0, "model": 2.25, "exchange": 10 * into_each / 1e9}
    )
    assert found.bottleneck.name == "model"
    # Two windows; a block for each of 10 decode tasks, and three for each of 4 workers.
    assert found.resident_bytes == 2 * 500 * 100_000 + 22 * 25 * 30_000


def test_labeling_by_hand():
    found = forecast.labeling(
        "labels", IMAGES, WORKERS, flops=2e9, pixel_bytes=30_000, block_bytes=10**6
    )
    assert _seconds(found) == pytest.approx(
        {"read": 0.05, "decode": 1.11, "model": 0.5, "exchange": 250 * 30_000 / 1e9}
    )
    assert found.resident_bytes == 18e6


def test_between_lots_of_shards_nothing_is_done():
    plan = dataclasses.replace(PLAN, dollars_per_hour=3600.0)
    workers = dataclasses.replace(WORKERS, plan=plan)
    sizes = {"flops": 2e9, "pixel_bytes": 30_000, "block_bytes": 10**6}
    one, three = (
        forecast.labeling("labels", IMAGES, workers, **sizes, num_lots=num_lots)
        for num_lots in (1, 3)
    )
    assert (one.seconds, three.seconds) == pytest.approx((1.11, 61.11))
    assert "cost: at least 61.11 $" in str(three)
    assert "3 lots of shards: 60.0 s between them" in str(three)
    assert "lots" not in str(one)


@pytest.mark.parametrize(
    ("num_files", "num_gpus", "num_lots"),
    [(2000, 1, 1), (2001, 1, 2), (20_000, 16, 2), (860_000, 64, 43)],
)
def test_lots_are_as_many_shards_as_keep_the_actors_busy(
    num_files: int, num_gpus: int, num_lots: int
):
    images = dataclasses.replace(IMAGES, num_files=num_files)
    cluster = Cluster(num_machines=96, num_cpus=1024, num_gpus=num_gpus)
    found = pipeline.forecast(images, LabelConfig(size_px=224), "resnet18", PLAN, cluster)
    assert found.num_lots == num_lots


def test_without_gpus_models_and_decoding_share_the_cpus():
    on_cpus = dataclasses.replace(WORKERS, on_gpus=False)
    found = forecast.training("run", IMAGES, SCHEDULE, on_cpus)
    assert _seconds(found)["compute"] == pytest.approx(1000 * (0.010 + 0.009) / 14)


def test_on_one_machine_nothing_is_exchanged_over_the_network():
    alone = dataclasses.replace(CLUSTER, num_machines=1)
    found = forecast.training("run", IMAGES, SCHEDULE, dataclasses.replace(WORKERS, cluster=alone))
    assert "exchange" not in _seconds(found)


def test_a_single_worker_gathers_nothing():
    found = forecast.training("run", IMAGES, SCHEDULE, dataclasses.replace(WORKERS, number=1))
    assert found.gathered_bytes == found.gradient_bytes == 0


@pytest.mark.parametrize(
    ("change", "bottleneck"),
    [
        ({"network_gbps": 0.01}, "exchange"),
        ({"images_per_cpu_s": 10.0}, "decode"),
        ({"gflops": 100.0}, "model"),
    ],
)
def test_the_slowest_stage_is_the_bottleneck_and_is_marked(
    change: dict[str, float], bottleneck: str
):
    plan = dataclasses.replace(PLAN, **change)
    found = forecast.training("run", IMAGES, SCHEDULE, dataclasses.replace(WORKERS, plan=plan))
    assert found.bottleneck.name == bottleneck
    (marked,) = [line for line in str(found).splitlines() if line.endswith("<- bottleneck")]
    assert marked.startswith(bottleneck)


def test_large_files_take_longer_to_decode_and_small_ones_as_long_as_those_measured():
    measured = assumptions.IMAGENET_IMAGE_BYTES
    seconds = [
        WORKERS.decode_s(dataclasses.replace(IMAGES, image_bytes=measured * factor))
        for factor in (0.01, 1, 30)
    ]
    assert seconds == pytest.approx([0.01, 0.01, 0.3])


def test_the_cost_follows_from_the_slowest_stage():
    plan = dataclasses.replace(PLAN, dollars_per_hour=36.0)
    text = str(forecast.training("run", IMAGES, SCHEDULE, dataclasses.replace(WORKERS, plan=plan)))
    assert "cost: at least 0.02 $, 22.50 $ a million images" in text  # 2.25 s at a cent a second


@pytest.mark.parametrize(("store_bytes", "spills"), [(10**9, False), (10**8, True)])
def test_an_object_store_too_small_for_the_job_is_pointed_out(store_bytes: int, spills: bool):
    cluster = dataclasses.replace(CLUSTER, store_bytes=store_bytes)
    workers = dataclasses.replace(WORKERS, cluster=cluster)
    assert ("so it spills" in str(forecast.training("r", IMAGES, SCHEDULE, workers))) == spills


def test_imagenet_on_eight_gpus():
    config = override(PRESETS["imagenet"], {"scaling.num_workers": 8, "run.name": "run"})
    cluster = Cluster(num_machines=12, num_cpus=128, num_gpus=8)
    found = expected(config, IMAGES, 1, PlanConfig(), cluster)
    # docs/architecture.md: 3072 channels, two representations of float32: 24 KiB an image.
    assert found.gathered_bytes == (256 - 32) * 24 * 2**10
    assert found.flops == pytest.approx(3 * 12.4e9, rel=0.01)
    assert next(s for s in found.stages if s.name == "decode").rate == 120  # a CPU beside each GPU
    accumulated = override(config, {"optim.accumulation": 4})
    more = expected(accumulated, IMAGES, 1, PlanConfig(), cluster)
    assert more.flops == pytest.approx(found.flops * 4 / 3)


@pytest.mark.parametrize(("num_gpus", "expected_workers"), [(1, 2), (5, 5), (64, 8)])
def test_a_range_of_workers_takes_the_gpus_there_are(num_gpus: int, expected_workers: int):
    config = override(TrainConfig(), {"scaling.num_workers": (2, 8)})
    cluster = Cluster(num_machines=1, num_cpus=64, num_gpus=num_gpus)
    found = expected(config, IMAGES, 1, PlanConfig(), cluster)
    assert found.workers.number == expected_workers


def test_every_scale_and_the_mirror_image_pass_through_the_model():
    cluster = Cluster(num_machines=1, num_cpus=8, num_gpus=1)

    def flops(**changes: object) -> float:
        config = LabelConfig(size_px=128, **changes)  # type: ignore[arg-type]
        return pipeline.forecast(IMAGES, config, "resnet18", PLAN, cluster).flops

    assert flops(flip=True) == 2 * flops()
    assert flops(scales=(1.0, 2.0)) == pytest.approx(5 * flops())


def test_footers_give_the_bytes_of_the_columns_that_are_read(tmp_path: Path):
    encoded = [os.urandom(1000) for _ in range(200)]
    unread = [os.urandom(5000) for _ in range(200)]
    ids = [f"image-{i}" for i in range(200)]
    table = pa.table({"image_id": ids, "image": encoded, "mask": unread})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=100)
    found = shards.index([str(tmp_path)])
    assert [group.num_rows for group in found] == [100, 100]
    for group in found:
        assert 100_000 < group.num_bytes < 110_000


def test_a_sample_of_many_shards_estimates_the_set(tmp_path: Path):
    folder = write_shards(tmp_path / "shards", 64, num_files=8)
    files = [File(str(f), f.stat().st_size) for f in sorted(Path(folder).glob("*.parquet"))]
    exact, sampled = _image_set(files), _image_set(files, at_most=3)
    assert exact.num_images == 64
    assert exact.num_files == sampled.num_files == 8
    assert sampled.num_images == pytest.approx(64, rel=0.1)
    assert sampled.num_bytes == pytest.approx(exact.num_bytes, rel=0.1)


def test_the_cluster_is_the_one_described_else_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    described = PlanConfig(num_cpus=64, num_gpus=8, num_machines=9)
    assert cli.find_cluster(described) == Cluster(num_machines=9, num_cpus=64, num_gpus=8)
    here = cli.find_cluster(PlanConfig())
    assert (here.num_machines, here.num_cpus) == (1, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("change", [{"gflops": 0.0}, {"num_cpus": -1}, {"network_gbps": -5.0}])
def test_an_assumption_out_of_range_is_refused_by_its_flag(change: dict[str, float]):
    with pytest.raises(ValueError, match=rf"plan\.{next(iter(change))} must be positive"):
        PlanConfig(**change)  # type: ignore[arg-type]


def test_gpus_without_cpus_describe_no_cluster():
    with pytest.raises(ValueError, match=r"plan\.num_cpus must be given"):
        PlanConfig(num_gpus=8)


def test_assumptions_without_a_dry_run_are_refused():
    with pytest.raises(ValueError, match="--plan flags go with --dry-run alone"):
        cli.parse(LabelConfig(), ["--plan.gflops", "100"], None)
    assert cli.parse(LabelConfig(), ["--flip"], None) == (LabelConfig(flip=True), None)
    _, plan = cli.parse(LabelConfig(), ["--dry-run", "--plan.gflops", "100"], None)
    assert plan == PlanConfig(gflops=100.0)


def test_a_dry_run_starts_nothing_and_writes_nothing(tmp_path: Path):
    """Seen from outside: home, temporary files and working directory of the job's own."""
    folder = write_shards(tmp_path / "shards", 24)
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "RAY_TMPDIR", "work")}
    for place in places.values():
        place.mkdir()
    before = sorted(tmp_path.rglob("*"))
    flags = f"--data.train {folder} --model.weights none --run.name run --dry-run"
    flags += " --optim.batch-size 8 --optim.epochs 2 --plan.num-cpus 16 --plan.num-gpus 1"
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "train.py"), *flags.split()],
        cwd=places["work"],
        env={**os.environ, **{name: str(place) for name, place in places.items()}},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run: 48 images in 6 steps of 8 on 1 GPU\n")
    assert sorted(tmp_path.rglob("*")) == before
