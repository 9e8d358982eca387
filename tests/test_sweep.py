"""Sweeps that run: trials that finish, fail, resume, and are stopped or killed at work."""

import json
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import torch

from c2am_dist import checkpoint
from c2am_dist.config import EvaluateConfig, LabelConfig, TrainConfig, override
from c2am_dist.evaluation import evaluate
from c2am_dist.labeling.job import label
from c2am_dist.sweep import job, results
from c2am_dist.sweep.score import FIGURES, Scorers
from c2am_dist.sweep.spec import SweepConfig, plan
from tests.conftest import BASE
from tests.processes import Job, own_processes


@pytest.fixture
def base(two_workers_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    return override(two_workers_config, {"run.storage": str(tmp_path), "run.name": "sweep"})


def _interrupted(finished: Path, trial: Path) -> None:
    """Puts a run into a trial's folder as it was when killed after its checkpoint at step 3."""
    shutil.copytree(finished, trial)
    shutil.rmtree(trial / "checkpoint")
    (trial / "checkpoints" / "step-00000006" / "manifest.json").unlink()
    (trial / "config.json").unlink()


def test_a_sweep_resumes_one_trial_survives_another_and_repeats_none(
    two_workers: Path, base: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shards = base.data.train
    config = SweepConfig(sweep=("optim.lr=1e-4,1e30",), seeds=1, annotations=shards)
    good = plan(config, base)[0]
    folder = tmp_path / "sweep"
    _interrupted(two_workers, folder / "trials" / good.name)
    rows = job.sweep(config, base).to_pylist()

    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert "the loss is" in rows[1]["reason"] and "at step" in rows[1]["reason"]
    assert rows[0]["steps"] == 6 and rows[0]["value"] == rows[0]["gt_known_loc"]
    assert all(rows[0][name] is not None for name in results.FIGURES)
    assert rows[1]["value"] is None and rows[1]["checkpoint"] is None
    metrics = (folder / "trials" / good.name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    resumed, undisturbed = (
        checkpoint.load(str(run))[0].model for run in (rows[0]["checkpoint"], two_workers)
    )
    for name, tensor in undisturbed.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-6, atol=1e-6, msg=name)

    assert pq.read_table(folder / "results.parquet").to_pylist() == rows
    best = json.loads((folder / "best.json").read_text())
    assert best["trial"] == good.name and best["checkpoint"] == rows[0]["checkpoint"]
    assert json.loads((folder / "sweep.json").read_text())["config"]["optim"]["batch_size"] == 8
    assert capfd.readouterr().out.count("[2/2]") == 1

    before = {path: path.stat().st_mtime_ns for path in (folder / "trials").rglob("*")}
    assert job.sweep(config, base).to_pylist() == rows
    assert "2 trials, 0 of them to run" in capfd.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (folder / "trials").rglob("*")}
    assert after == before
    with pytest.raises(ValueError, match=r"sweep\.seeds was 1, now 2.*config.loss.alpha was 0.05"):
        job.sweep(
            SweepConfig(sweep=config.sweep, seeds=2, annotations=shards),
            override(base, {"loss.alpha": 0.5}),
        )


def test_a_trial_is_scored_as_labeling_and_evaluation_would(
    two_workers: Path, base: TrainConfig, tmp_path: Path
):
    shards = base.data.train
    label(LabelConfig(checkpoint=str(two_workers), input=shards, output=f"{tmp_path}/labels"))
    metrics = evaluate(
        EvaluateConfig(
            labels=(f"{tmp_path}/labels",), annotations=shards, output=f"{tmp_path}/metrics.json"
        )
    )
    annotations, row_groups = job._to_score(SweepConfig(annotations=shards), base)
    # As on two nodes, each with half of the images.
    halves = [
        Scorers.start(groups, annotations, 100.0) for groups in (row_groups[:2], row_groups[2:])
    ]
    both = Scorers(actors=[half.actors[0] for half in halves], annotations=halves[0].annotations)
    found = both.score(f"{two_workers}/checkpoint")
    assert {name: found[name] for name in FIGURES} == {
        name: metrics["c2am"][name] for name in FIGURES
    }
    assert found["centre_gt_known_loc"] == metrics["centre"]["gt_known_loc"]
    loaded, _ = checkpoint.load(str(two_workers))
    assert found["polarity_margin"] == pytest.approx(loaded.polarity_margin)
    assert found["border_lock"] == pytest.approx(loaded.border_lock)
    labels = pq.read_table(tmp_path / "labels")
    assert found["confidence"] == pytest.approx(sum(labels["confidence"].to_pylist()) / 24)
    assert 0 <= found["flip_agreement"] <= 1 and found["map_spread"] > 0


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"data.train": ("nowhere",)}, {}, "nowhere: no such file"),
        ({"model.weights": "no/such.pth"}, {}, r"no/such\.pth: no such file"),
        ({}, {"annotations": ("nowhere",)}, "nowhere: no such file"),
        ({}, {"sweep": ("model.weights=none,no/such.pth",)}, r"no/such\.pth: no such file"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_written(
    ray_cluster: None,
    base: TrainConfig,
    tmp_path: Path,
    changes: dict[str, object],
    settings: dict[str, tuple[str, ...]],
    message: str,
):
    config = SweepConfig(**{"sweep": ("alpha",), **settings})  # type: ignore[arg-type]
    with pytest.raises((ValueError, OSError), match=message):
        job.sweep(config, override(base, changes))
    assert not list(tmp_path.iterdir())


def test_a_training_run_is_not_taken_for_a_sweep(
    two_workers: Path, two_workers_config: TrainConfig
):
    with pytest.raises(ValueError, match="is a training run; choose another name"):
        job.sweep(SweepConfig(sweep=("alpha",)), two_workers_config)


def _gone(name: str, timeout_s: float = 30) -> bool:
    """Whether no process of a name is left, after a while at most."""
    deadline = time.monotonic() + timeout_s
    while own_processes(name) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not own_processes(name)


@pytest.mark.slow
def test_a_trial_that_asha_stops_is_over(ray_cluster: None, base: TrainConfig, tmp_path: Path):
    # A row of metrics would come after the first rung, if the trial did not see to it.
    longer = {"optim.max_steps": 200, "run.checkpoint_every": 1000, "run.log_every": 1000}
    base = override(base, longer)
    # The loss of the second, in which all pairs count in full, is far above that of the first.
    config = SweepConfig(
        sweep=("loss.alpha=5,0",), seeds=1, objective="loss", asha=True, asha_grace=0.1
    )
    rows = job.sweep(config, base).to_pylist()
    assert _gone("RayTrainWorker") and _gone("TrainController")
    assert [row["status"] for row in rows] == ["finished", "stopped"]
    assert rows[0]["steps"] == 200 and rows[1]["steps"] < 100
    assert rows[1]["reason"].startswith("by ASHA at ")
    run = str(tmp_path / "sweep" / "trials" / rows[1]["trial"])
    reached = checkpoint.latest_step(run)
    assert reached is not None and reached < 200, "the run went on"
    # A killed driver's sweep goes on with ASHA knowing what the trials before had reached.
    Path(run, "trial.json").unlink()
    again = job.sweep(config, base)
    assert _gone("RayTrainWorker")
    assert [row["status"] for row in again.to_pylist()] == ["finished", "stopped"]
    assert again.to_pylist()[0] == rows[0]
    best = results.best(again)
    assert best is not None and best["trial"] == rows[0]["trial"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(ray_cluster: None, base: TrainConfig, tmp_path: Path):
    ours = {
        "data.train": base.data.train[0],
        "run.storage": str(tmp_path),
        "run.name": "sweep",
        "optim.max_steps": 100,
        "run.checkpoint_every": 5,
    }
    flags = [
        part
        for path, value in {**BASE, **ours}.items()
        for part in (f"--{path.replace('_', '-')}", *str(value).split())
    ]
    flags += ["--sweep", "loss.alpha=0,0.5", "--seeds", "1", "--annotations", base.data.train[0]]
    driver = Job("sweep", flags, tmp_path / "log", ray.get_runtime_context().gcs_address)
    driver.command[1] = "tune/sweep.py"
    trials = tmp_path / "sweep" / "trials"
    first, second = (trials / f"{i}-alpha-{a}-seed-0" for i, a in enumerate(("0.0", "0.5")))
    driver.start()
    driver.until(lambda: (first / "trial.json").exists() and bool(checkpoint.steps(str(second))))
    driver.kill()
    reached = checkpoint.latest_step(str(second))
    assert reached is not None and reached < 100, "killed too late to show anything"
    assert _gone("RayTrainWorker"), "the killed driver's workers are still there"
    reached = checkpoint.latest_step(str(second))
    kept = [(first / name).stat().st_mtime_ns for name in ("trial.json", "metrics.jsonl")]
    driver.start()
    printed = driver.end()
    assert "2 trials, 1 of them to run" in printed
    assert f"resuming at step {reached} of 100" in printed
    assert kept == [(first / n).stat().st_mtime_ns for n in ("trial.json", "metrics.jsonl")]
    rows = pq.read_table(tmp_path / "sweep" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    label(
        LabelConfig(
            checkpoint=best["checkpoint"], input=base.data.train, output=f"{tmp_path}/labels"
        )
    )
    assert pq.read_table(tmp_path / "labels").num_rows == 24
