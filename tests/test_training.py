import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from c2am_dist import checkpoint
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import TrainConfig, override
from c2am_dist.forecast import Cluster
from c2am_dist.training import dry_run, fit
from c2am_dist.training.batch import Batch
from c2am_dist.training.failures import TrainingStopped
from c2am_dist.training.methods import METHODS
from tests.processes import own_processes


@pytest.fixture(scope="module")
def config(two_workers_config: TrainConfig) -> TrainConfig:
    return two_workers_config


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _assert_close(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint, rtol: float) -> None:
    assert one.model.keys() == other.model.keys()
    for name, tensor in one.model.items():
        torch.testing.assert_close(tensor, other.model[name], rtol=rtol, atol=rtol, msg=name)


def test_a_run_leaves_checkpoints_metrics_and_events(two_workers: Path, config: TrainConfig):
    assert checkpoint.steps(str(two_workers)) == [3, 6]
    final, _ = checkpoint.load(str(two_workers / "checkpoint"))
    assert (final.step, final.total_steps, final.encoder) == (6, 6, "resnet18")
    assert final.polarity in ("foreground", "background")
    assert 0 <= final.polarity_margin <= 0.5
    assert json.loads(final.config)["optim"]["batch_size"] == config.optim.batch_size
    rows = _rows(two_workers)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        terms = ("positive_foreground", "positive_background", "negative")
        assert math.isclose(row["loss"], sum(row[term] for term in terms), rel_tol=1e-5)
        assert 0 < row["activation_mean"] < 1 and row["images_per_s"] > 0
        assert 0 <= row["data_wait_fraction"] <= 1
    names = {"checkpoint", "checkpoints", "config.json", "metrics.jsonl", "tensorboard"}
    assert {path.name for path in two_workers.iterdir()} == names
    board = EventAccumulator(str(two_workers / "tensorboard"))
    board.Reload()
    for name in ("loss", "negative", "images_per_s", "lr"):
        shown = {event.step: event.value for event in board.Scalars(name)}
        assert shown == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-6)


def test_one_worker_trains_to_the_same_weights_as_two(two_workers: Path, config: TrainConfig):
    """The same batches, synchronised BatchNorm and a contrast over the global batch."""
    alone = override(config, {"scaling.num_workers": 1, "run.name": "one"})
    one = Path(fit(alone).run)
    for ours, theirs in zip(_rows(one), _rows(two_workers), strict=True):
        assert math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-4)
    _assert_close(checkpoint.load(str(one))[0], checkpoint.load(str(two_workers))[0], rtol=1e-3)


def _interrupted(finished: Path, name: str) -> Path:
    """A copy of a run as it was right after its checkpoint at step 3, the next half written."""
    run = finished.parent / name
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoint")
    (run / "checkpoints" / "step-00000006" / "manifest.json").unlink()
    (run / "config.json").unlink()
    return run


def _kill_a_worker(run: Path, timeout_s: float = 180) -> int:
    """Kills one of two workers at the first checkpoint; its step, once others have started."""
    until = time.monotonic() + timeout_s
    while not (reached := checkpoint.latest_step(str(run))):
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.02)
    workers = own_processes("RayTrainWorker")
    os.kill(workers[1], signal.SIGKILL)
    while set(own_processes("RayTrainWorker")) <= set(workers):
        assert time.monotonic() < until, "no new worker"
        time.sleep(0.1)
    return reached


def test_a_killed_worker_changes_nothing(two_workers: Path, config: TrainConfig):
    changes = {"run.name": "killed", "run.checkpoint_every": 1, "run.max_failures": 1}
    run = two_workers.with_name("killed")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(_kill_a_worker, run)
        fit(override(config, changes))
        assert killed.result() < 5, "too late to show anything"
    assert [row["step"] for row in _rows(run)] == [1, 2, 3, 4, 5, 6]
    _assert_close(checkpoint.load(str(run))[0], checkpoint.load(str(two_workers))[0], rtol=0)


def test_resuming_from_a_checkpoint_equals_never_stopping(two_workers: Path, config: TrainConfig):
    interrupted = _interrupted(two_workers, "interrupted")
    fit(override(config, {"run.name": "interrupted"}))
    _assert_close(
        checkpoint.load(str(interrupted))[0], checkpoint.load(str(two_workers))[0], rtol=1e-6
    )
    assert [row["step"] for row in _rows(interrupted)] == [1, 2, 3, 4, 5, 6]


def test_a_dry_run_counts_the_steps_that_a_run_has_before_it(
    two_workers: Path, config: TrainConfig
):
    def planned(name: str) -> str:
        cluster = Cluster(num_machines=1, num_cpus=4)
        return str(dry_run(override(config, {"run.name": name}), PlanConfig(), cluster))

    steps = checkpoint.read_manifest(str(two_workers / "checkpoint"))["step"]
    _interrupted(two_workers, "half")
    before = sorted(two_workers.parent.rglob("*"))
    assert planned("unborn").startswith(f"unborn: {8 * steps} images in {steps} steps of 8 on 2")
    assert planned("half").startswith(f"half: {8 * (steps - 3)} images in {steps - 3} steps")
    assert planned("two") == "two: 0 images in 0 steps of 8 on 2 CPU workers: nothing is left to do"
    assert sorted(two_workers.parent.rglob("*")) == before


def test_a_run_killed_before_its_final_checkpoint_has_it_without_more_training(
    two_workers: Path, config: TrainConfig
):
    run = two_workers.parent / "late"
    shutil.copytree(two_workers, run)
    shutil.rmtree(run / "checkpoint")
    (run / "config.json").unlink()
    fit(override(config, {"run.name": "late"}))
    for path in (two_workers / "checkpoint").iterdir():
        assert (run / "checkpoint" / path.name).read_bytes() == path.read_bytes()
    before, after = (folder / "metrics.jsonl" for folder in (two_workers, run))
    assert after.stat().st_mtime_ns == before.stat().st_mtime_ns


def test_the_same_command_again_finds_the_run_finished(two_workers: Path, config: TrainConfig):
    before = (two_workers / "checkpoint" / "checkpoint.pt").stat().st_mtime_ns
    assert fit(config).manifest["step"] == 6
    assert (two_workers / "checkpoint" / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_config_under_the_same_name_is_refused(two_workers: Path, config: TrainConfig):
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.0001, now 0\.5"):
        fit(override(config, {"optim.lr": 0.5}))


def test_what_changes_no_result_may_differ(two_workers: Path, config: TrainConfig):
    changes = {"data.prefetch": 5, "data.decode_tasks": 1, "run.log_every": 3}
    assert fit(override(config, changes)).manifest["step"] == 6


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    two_workers: Path, config: TrainConfig
):
    def diverge(content: checkpoint.Checkpoint) -> None:
        for group in content.optimizer["param_groups"]:
            group["initial_lr"] = 1e30

    run = _resumes_from(two_workers, "diverging", diverge)
    with pytest.raises(TrainingStopped, match=r"diverging: the loss is nan at step [45]"):
        fit(override(config, {"run.name": "diverging", "scaling.num_workers": 1}))
    assert checkpoint.steps(str(run)) == [3] and not (run / "checkpoint").exists()


def test_a_collapsed_map_stops_and_keeps_the_last_good_checkpoint(
    two_workers: Path, config: TrainConfig
):
    def collapse(content: checkpoint.Checkpoint) -> None:
        for name in ("conv.weight", "norm.weight"):
            content.model[f"disentangler.{name}"].zero_()

    run = _resumes_from(two_workers, "collapsing", collapse)
    with pytest.raises(TrainingStopped, match=r"collapsing: .* has collapsed at step 6"):
        fit(override(config, {"run.name": "collapsing", "scaling.num_workers": 1}))
    assert checkpoint.steps(str(run)) == [3] and not (run / "checkpoint").exists()


def _resumes_from(
    finished: Path, name: str, change: Callable[[checkpoint.Checkpoint], None]
) -> Path:
    """An interrupted run whose last checkpoint was changed in place."""
    run = _interrupted(finished, name)
    folder = checkpoint.step_folder(str(run), 3)
    content, _ = checkpoint.load(folder)
    change(content)
    checkpoint.save(folder, content)
    return run


def test_a_classifier_gives_c2am_its_encoder(two_workers: Path, config: TrainConfig):
    pretraining = override(
        config,
        {
            "method": "classifier",
            "run.name": "classifier",
            "optim.max_steps": 2,
            "scaling.num_workers": 1,
            "optim.accumulation": 2,
        },
    )
    trained = fit(pretraining)
    loaded, sha256 = checkpoint.load(trained.checkpoint)
    assert len(loaded.classes) > 1 and loaded.polarity == ""
    learning = override(
        config,
        {
            "model.weights": trained.checkpoint,
            "run.name": "from-classifier",
            "optim.max_steps": 1,
            "optim.accumulation": 2,
            "scaling.num_workers": 1,
        },
    )
    content, _ = checkpoint.load(fit(learning).checkpoint)
    assert content.weights_sha256 == sha256


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_encoder_trains_to_the_same_weights(two_workers: Path, config: TrainConfig):
    compiled = Path(fit(override(config, {"optim.compile": True, "run.name": "compiled"})).run)
    _assert_close(checkpoint.load(str(compiled))[0], checkpoint.load(str(two_workers))[0], 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.train": ("nowhere",)}, "nowhere: no such file"),
        ({"optim.batch_size": 512}, "24 images, fewer than optim.batch_size"),
        ({"model.weights": "no/such/file.pth"}, r"no/such/file\.pth: no such file"),
        ({"model.weights": "IMAGENET9K_V1"}, "IMAGENET9K_V1"),
        ({"model.encoder": "resnet34", "model.weights": "RUN"}, "model.weights.*RUN|missing"),
    ],
)
def test_bad_input_is_refused_before_workers_start(
    two_workers: Path, config: TrainConfig, changes: dict[str, object], message: str
):
    values = {
        path: str(two_workers / "checkpoint") if value == "RUN" else value
        for path, value in changes.items()
    }
    with pytest.raises((ValueError, OSError), match=message.replace("RUN", "two")):
        fit(override(config, {"run.name": "refused", **values}))
    assert not (two_workers.parent / "refused" / "config.json").exists()


def test_accumulation_keeps_the_global_contrast():
    """With every BatchNorm at rest, micro-batches give the gradients of the whole batch."""
    torch.manual_seed(0)
    method = METHODS["c2am"]
    config = override(TrainConfig(), {"model.encoder": "resnet18", "optim.batch_size": 8})
    model = method.build(config, num_classes=0).double().eval()
    images = torch.randn(8, 3, 48, 48, dtype=torch.float64)

    def gradients(accumulation: int) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        optim = dataclasses.replace(config.optim, accumulation=accumulation)
        terms = method.backward(
            model,
            Batch(images=images),
            config=dataclasses.replace(config, optim=optim),
            autocast=contextlib.nullcontext,
        )
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return terms["loss"].item(), found

    whole_loss, whole = gradients(1)
    loss, accumulated = gradients(4)
    assert math.isclose(whole_loss, loss, rel_tol=1e-6)
    assert whole.keys() == accumulated.keys()
    for name, gradient in whole.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(accumulated[name], gradient, rtol=1e-4, atol=1e-4 * scale)
