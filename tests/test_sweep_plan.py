"""Sweeps on paper: what is swept, which trials follow, what their results say. No Ray."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.config import PRESETS, TrainConfig, override
from c2am_dist.sweep import job, results, space
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.spec import SweepConfig, Trial, command, differences, plan
from jobs import train
from tests.images import write_shards

ROOT = Path(__file__).resolve().parents[1]
BASE = override(
    TrainConfig(),
    {
        "data.train": ("shards",),
        "model.weights": "none",
        "run.storage": "s3://b/r",
        "run.name": "s",
    },
)


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("alpha", {"loss.alpha": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}),
        (
            "head_init",
            {"model.head_init": ("kaiming_normal", "kaiming_uniform", "normal", "uniform")},
        ),
        ("loss.alpha=0:0.9:0.1", {"loss.alpha": tuple(i / 10 for i in range(10))}),
        ("loss.alpha=0.3:0.1:-0.1", {"loss.alpha": (0.3, 0.2, 0.1)}),
        ("optim.lr=1e-5:1e-2:*10", {"optim.lr": (1e-5, 1e-4, 1e-3, 1e-2)}),
        ("optim.batch_size=16:64:*2", {"optim.batch_size": (16, 32, 64)}),
        ("data.flip=True,False", {"data.flip": (True, False)}),
        ("data.limit=None,100", {"data.limit": (None, 100)}),
        ("optim.precision=bf16,float32", {"optim.precision": ("bf16", "float32")}),
        ("data.train=s3://a:9/x,y", {"data.train": (("s3://a:9/x",), ("y",))}),
        ("scaling.num_workers=1,2", {"scaling.num_workers": (1, 2)}),
    ],
)
def test_an_expression_says_which_values_a_field_takes(expression: str, values: space.Values):
    assert space.parse([expression], BASE) == values


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("loss.alhpa=0,1", r"'loss.alhpa' is no field of the config; did you mean loss\.alpha\?"),
        ("alpha=0,1", r"'alpha' is no field of the config; did you mean loss\.alpha\?"),
        ("head-init", "'head-init' is no ready-made sweep; did you mean head_init"),
        ("loss.alpha", "loss.alpha needs values"),
        ("loss.alpha=0,-1", r"loss\.alpha=-1\.0: loss\.alpha must be >= 0, got -1\.0"),
        ("loss.alpha=0,high", "loss.alpha: 'high' is not a number"),
        ("loss.alpha=nan", "loss.alpha must be >= 0, got nan"),
        ("loss.alpha=0,0.0", "a value comes twice"),
        ("loss.alpha=0:1:0", "a range is first:last:step"),
        ("loss.alpha=0:1:-0.1", "the range holds no value"),
        ("loss.alpha=0:1:1e-9", "holds no value, or over 1000"),
        ("loss.alpha=0:1:*2", "a range is first:last:step"),
        ("optim.batch_size=16:18:0.5", "'16.5' is not a whole number"),
        ("model.head_init=kaiming", "'kaiming' is not kaiming_normal or kaiming_uniform"),
        ("run.seed=0,1", "run.seed cannot be swept: --seeds says"),
        ("run.name=a,b", "run.name cannot be swept"),
        ("loss=1", "'loss' is no field"),
        ("method=c2am,classifier", "method cannot be swept: .* only c2am has any"),
        ("optim.lr=1e-5:1e-2:*inf", "a range is first:last:step"),
        ("optim.lr=1e-5:1e-2:inf", "a range is first:last:step"),
        ("optim.lr=1e-5:1e-2:nan", "a range is first:last:step"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(expression: str, message: str):
    with pytest.raises(ValueError, match=message):
        space.parse([expression], BASE)


def test_a_field_comes_once():
    with pytest.raises(ValueError, match=r"loss\.alpha comes twice"):
        space.parse(["alpha", "loss.alpha=0.5"], BASE)


def test_the_trials_are_every_combination_seed_after_seed():
    trials = plan(SweepConfig(sweep=("alpha-x-init",), seeds=2), override(BASE, {"run.seed": 5}))
    assert len(trials) == 2 * 10 * 4
    assert len({trial.name for trial in trials}) == len(trials)
    assert [trial.seed for trial in trials] == [5] * 40 + [6] * 40
    one = trials[41]
    assert one.name == "41-alpha-0.0-head_init-kaiming_uniform-seed-6"
    assert one.values == {"loss.alpha": 0.0, "model.head_init": "kaiming_uniform"}
    expected = one.values | {
        "run.seed": 6,
        "run.name": one.name,
        "run.storage": "s3://b/r/s/trials",
    }
    assert one.config == override(BASE, expected)


def test_values_that_do_not_go_together_are_refused_before_anything_starts():
    sweep = SweepConfig(sweep=("optim.batch_size=4,256", "optim.accumulation=1,8"))
    with pytest.raises(ValueError, match=r"'optim.accumulation': 8.*optim.batch_size must be >="):
        plan(sweep, BASE)


@pytest.mark.parametrize("path", ["data.train", "model.weights"])
@pytest.mark.parametrize("values", ["", "a,"])
def test_an_empty_value_of_what_must_be_given_is_refused(path: str, values: str):
    with pytest.raises(ValueError, match=rf"sweep: .*{path} must be given"):
        plan(SweepConfig(sweep=(f"{path}={values}",)), BASE)


def test_a_value_cannot_lead_a_trial_out_of_its_folder():
    (trial,) = plan(SweepConfig(sweep=("model.weights=../../x/y",), seeds=1), BASE)
    assert trial.name == "0-weights-.._.._x_y-seed-0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be positive"),
        ({"objective": "gt_known_loc"}, "objective gt_known_loc needs --annotations"),
        ({"asha_grace": 1.0}, "asha_grace"),
        ({"asha_factor": 1}, "asha_factor"),
        ({"concurrent": 0}, "concurrent"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        SweepConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", [n for n, run in PRESETS.items() if run.method == "c2am"])
def test_a_trials_command_gives_its_config(preset: str):
    changes = {
        "preset": preset,
        "data.train": ("a b", "s3://c"),
        "data.flip": False,
        "data.limit": 9,
        "optim.compile": True,
        "model.weights": "a 'file'.pth",
        "scaling.num_workers": (1, 2),
        "optim.lr": 1e-5,
    }
    base = override(PRESETS[preset], {**changes, "run.name": "s", "run.storage": "s3://b/r"})
    for trial in plan(SweepConfig(sweep=("loss.alpha=0,0.25",), seeds=2), base):
        program, script, *arguments = shlex.split(command(trial))
        assert (program, script) == ("python", "jobs/train.py")
        config, _ = train.parse(arguments)
        assert config == override(trial.config, {"run.storage": "runs"})


def test_the_job_refuses_a_mistyped_path_in_one_line_before_ray_starts():
    flags = "--sweep loss.alhpa=0,1 --data.train x --model.weights none --run.name s"
    result = subprocess.run(
        [sys.executable, "tune/sweep.py", *flags.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    expected = "error: sweep: 'loss.alhpa' is no field of the config; did you mean loss.alpha?\n"
    assert result.stderr == expected


SWEEP = SweepConfig(sweep=("loss.alpha=0,0.5,1",), seeds=2, annotations=("x",))


def _records(trials: list[Trial]) -> dict[str, Record]:
    """Finished with 60 to 64; but the second seed of 0.5 failed, and that of 1 has not run."""
    found = {
        trial.name: Record(
            status="finished",
            figures={"gt_known_loc": 60.0 + i, "loss": -float(i), "confidence": 0.5},
            steps=9,
            seconds=1.5,
            checkpoint=f"s3://b/r/s/trials/{trial.name}/checkpoint",
        )
        for i, trial in enumerate(trials)
    }
    found[trials[4].name] = Record(status="failed", reason="the loss is nan", steps=3)
    del found[trials[5].name]
    return found


def test_the_table_has_a_row_a_trial_and_the_points_their_mean_and_spread():
    trials = plan(SWEEP, BASE)
    table = results.table(trials, _records(trials), SWEEP)
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == [*["finished"] * 4, "failed", "unfinished"]
    assert rows[4]["reason"] == "the loss is nan" and rows[4]["value"] is None
    assert rows[1] | {"trial": "1-alpha-0.5-seed-0", "loss.alpha": 0.5, "seed": 0} == rows[1]
    assert rows[1]["value"] == rows[1]["gt_known_loc"] == 61.0 and rows[1]["objective"]
    assert rows[1]["command"] == command(trials[1])
    points = results.points(table).to_pylist()
    assert [p["loss.alpha"] for p in points] == [0.0, 0.5, 1.0]
    assert [p["num_seeds"] for p in points] == [2, 1, 1]
    assert points[0]["mean"] == 61.5 and points[0]["spread"] == pytest.approx(4.5**0.5)
    assert points[1]["mean"] == 61.0 and points[1]["spread"] is None


def test_the_best_trial_is_the_one_whose_objective_is_best_either_way():
    trials = plan(SWEEP, BASE)
    records = _records(trials)
    found = results.best(results.table(trials, records, SWEEP))
    assert found is not None and found["trial"] == trials[3].name and found["value"] == 63.0
    assert found["checkpoint"].endswith(f"{trials[3].name}/checkpoint")
    # Its point, alpha 0, has 60 and 63.
    assert found["loss.alpha"] == 0.0 and found["point_num_seeds"] == 2
    assert (found["point_mean"], found["point_spread"]) == (61.5, pytest.approx(4.5**0.5))
    by_loss = SweepConfig(sweep=SWEEP.sweep, seeds=2, objective="loss")
    found = results.best(results.table(trials, records, by_loss))
    assert found is not None and found["value"] == -3.0
    alone = results.table(trials, {trials[1].name: records[trials[1].name]}, SWEEP)
    found = results.best(alone)
    assert found is not None and found["point_num_seeds"] == 1 and found["point_spread"] is None
    assert results.best(results.table(trials, {}, SWEEP)) is None


def test_ranks_correlate_as_spearman_defines():
    trials = plan(SWEEP, BASE)
    table = results.table(trials, _records(trials), SWEEP)
    assert results.rank_correlation(table, "gt_known_loc", "loss") == pytest.approx(-1)
    assert results.rank_correlation(table, "gt_known_loc", "confidence") is None
    assert results.rank_correlation(table, "gt_known_loc", "flip_agreement") is None
    records = _records(trials)
    values = {0: (1.0, 1.0), 1: (2.0, 1.0), 2: (3.0, 3.0), 3: (4.0, 2.0)}
    for i, (one, other) in values.items():
        records[trials[i].name] = Record(
            status="finished", figures={"gt_known_loc": one, "loss": other}
        )
    # By hand: ranks 1 2 3 4 and 1.5 1.5 4 3, deviations -1.5 -.5 .5 1.5 and -1 -1 1.5 .5.
    expected = 3.5 / (5 * 4.5) ** 0.5
    table = results.table(trials, records, SWEEP)
    assert results.rank_correlation(table, "gt_known_loc", "loss") == pytest.approx(expected)


def test_what_is_written_reads_back_the_same(tmp_path: Path):
    trials = plan(SWEEP, BASE)
    folder = str(tmp_path)
    for trial in trials:
        if record := _records(trials).get(trial.name):
            results.write_record(folder, trial, record)
    assert results.read_records(folder, trials) == _records(trials)
    table = results.table(trials, _records(trials), SWEEP)
    results.write(folder, table)
    assert pq.read_table(tmp_path / "results.parquet").equals(table, check_metadata=True)
    assert pyarrow.csv.read_csv(tmp_path / "results.csv").num_rows == 6
    assert pyarrow.csv.read_csv(tmp_path / "points.csv").column_names[0] == "loss.alpha"
    assert json.loads((tmp_path / "best.json").read_text())["trial"] == trials[3].name
    (tmp_path / "trials" / trials[0].name / "trial.json").write_text('{"what": 1}')
    with pytest.raises(ValueError, match=r"trial\.json: not the record of a trial"):
        results.read_records(folder, trials)


def test_images_to_score_without_a_box_are_refused_before_anything_starts(tmp_path: Path):
    shards = Path(write_shards(tmp_path / "shards", 8, num_files=1))
    rows = pq.read_table(shards / "shard-00000.parquet").to_pylist()
    rows[:4] = [row | {"boxes": None} for row in rows[:4]]  # and the first four are scored
    table = pa.Table.from_pylist(rows, schema.SHARD)
    pq.write_table(table, shards / "shard-00000.parquet")
    sweep = SweepConfig(annotations=(str(shards),), score_images=4)
    with pytest.raises(ValueError, match=r"none of the 4 images of .* has a box"):
        job._to_score(sweep, BASE)
    annotations, row_groups = job._to_score(dataclasses.replace(sweep, score_images=5), BASE)
    assert annotations is not None and sum(group.num_rows for group in row_groups) == 5


def test_another_sweep_is_told_field_by_field():
    old = {"sweep": {"seeds": 2, "sweep": ["alpha"]}, "config": {"loss": {"alpha": 0.1}}}
    new = {"sweep": {"seeds": 3, "sweep": ["alpha"]}, "config": {"loss": {"alpha": 0.2}}}
    assert differences(old, new) == [
        "sweep.seeds was 2, now 3",
        "config.loss.alpha was 0.1, now 0.2",
    ]
