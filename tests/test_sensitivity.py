"""What docs/make_sensitivity.py says of two sweeps; their figures are made up here."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from c2am_dist.config import TrainConfig, override, to_json
from c2am_dist.sweep import results
from c2am_dist.sweep.noise import Noise, studentized_range
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.spec import SweepConfig, plan
from tests.test_docs import ROOT, load

BASE = override(
    TrainConfig(), {"data.train": ("x",), "model.weights": "a/b.pth", "run.name": "sensitivity"}
)
TABLE_6 = {"kaiming_normal": 66.51, "kaiming_uniform": 66.44, "normal": 66.82, "uniform": 66.67}
TOLD: dict[str, Any] = {
    "sweep": {"score_images": 1000},
    "config": json.loads(to_json(BASE)),
    "command": ["python", "tune/sweep.py", "--sweep", "a=1:2"],
}
Scores = Mapping[object, tuple[float | str, ...]]
"""Swept value -> what each seed reached, or why it failed."""


def sweep_of(name: str, by_value: Scores, sign: float = -1) -> pa.Table:
    """A sweep's table; the loss is ``sign`` times the score, the confidence one tenth of it."""
    seeds = len(next(iter(by_value.values())))
    config = SweepConfig(sweep=(name,), seeds=seeds, annotations=("x",))
    trials = plan(config, BASE)
    records = {}
    for trial in trials:
        (value,) = trial.values.values()
        score = by_value[value][trial.seed]
        if isinstance(score, str):
            records[trial.name] = Record(status="failed", reason=score, seconds=30.0)
            continue
        figures = {"gt_known_loc": score, "centre_gt_known_loc": 56.9, "loss": sign * score}
        records[trial.name] = Record(status="finished", figures=figures, seconds=60.0, steps=1400)
    return results.table(trials, records, config)


def turned(values: tuple[float, ...], index: int) -> tuple[float, ...]:
    """The seeds of every second point the other way round: no seed is better at all points."""
    return values[::-1] if index % 2 else values


INIT = sweep_of(
    "head_init",
    {name: turned((v, v + 0.5), i) for i, (name, v) in enumerate(TABLE_6.items())},
)


def alphas(at_zero: float, at_half: float) -> dict[object, tuple[float | str, ...]]:
    by_alpha = {i / 10: turned((60.0 + i / 100, 60.4), i) for i in range(10)}
    return {**by_alpha, 0.0: (at_zero, at_zero + 0.4), 0.5: (at_half + 0.3, at_half)}


@pytest.mark.parametrize(
    ("at_zero", "at_half", "agrees"), [(50.0, 60.1, True), (60.0, 60.1, False), (50.0, 55.0, False)]
)
def test_the_verdict_follows_from_the_figures(at_zero: float, at_half: float, agrees: bool):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    text = make.render((sweep_of("alpha", alphas(at_zero, at_half)), TOLD), (INIT, TOLD))
    assert ("The shape of figure 8 agrees" in text) == agrees
    assert "do not differ beyond that, as in Table 6" in text
    assert "| `normal` | 67.07 | 0.35 | 66.8 67.3 | 66.82 |" in text
    assert "| `loss` | -1.00 | -1.00 | -1.00 |" in text
    assert "python tune/sweep.py --sweep a=1:2" in text
    assert "56.9 on the same images" in text


def test_what_the_trials_have_in_common_is_read_from_the_sweep():
    make = load(ROOT / "docs" / "make_sensitivity.py")
    short = {**TOLD, "config": json.loads(to_json(override(BASE, {"data.limit": 20_000})))}
    text = make.render((sweep_of("alpha", alphas(50, 60)), short), (INIT, TOLD))
    for line in (
        "| encoder | resnet50 | resnet50 |",
        "| its weights | `b.pth` | `b.pth` |",
        "| steps | 1,400 | 1,400 |",
        "| images a step | 256 | 256 |",
        "| training images | 20,000 | all |",
        "| images scored | 1,000 | 1,000 |",
        "| trials | 20 | 8 |",
        "| minutes, added up | 20 | 8 |",
    ):
        assert line in text


def test_a_command_names_no_place_of_the_machine_that_ran_it(monkeypatch: pytest.MonkeyPatch):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    monkeypatch.setenv("C2AM_SHARED", "/data")
    words = "python tune/sweep.py --data.train /data/train --run.storage /runs"
    told = {"command": [*words.split(), "--sweep", "a=1 2"]}
    shown = "python tune/sweep.py --data.train $C2AM_SHARED/train --run.storage runs"
    assert make.command(told) == f"{shown} --sweep 'a=1 2'"


def test_the_studentized_range_is_that_of_the_tables():
    # q(0.95; k, degrees of freedom), from the tables in any textbook.
    tables = {(2, 10): 3.15, (4, 4): 5.76, (4, 8): 4.53, (9, 10): 5.46, (9, 20): 4.90}
    for (num_points, freedom), expected in tables.items():
        assert studentized_range(num_points, freedom) == pytest.approx(expected, rel=0.01)


def test_the_noise_is_pooled_over_points_and_seeds():
    # Squared deviations 2, 2 and 8 over one, one and two degrees: variance 3. The harmonic mean of
    # 2, 2 and 3 seeds is 9 / 4, so that of a mean is 4 / 3.
    points = [(1.0, 3.0), (5.0, 7.0), (0.0, 2.0, 4.0), ()]
    noise = Noise(points)
    assert noise.range_bound(4) == pytest.approx(5.76 * (4 / 3) ** 0.5, rel=0.01)
    # Student's t(0.975; 4) is 2.776.
    assert noise.gap_bound(3) == pytest.approx(2.776 * (4 / 3 * 4 / 3) ** 0.5, rel=0.01)
    with pytest.raises(ValueError, match="no point has two finished seeds"):
        Noise([(1.0,), (2.0,)])


def test_what_a_seed_does_to_all_points_alike_is_no_noise():
    # The residuals of point and seed are -1, 1 and 0, each with both signs: 4 over 2 degrees.
    points = [(10.0, 3.0), (14.0, 3.0), (18.0, 9.0)]
    error = (4 / 2 / 2) ** 0.5
    assert Noise(points).range_bound(3) == pytest.approx(8.33 * error, rel=0.02)  # q(0.95; 3, 2)
    shifted = [(one + 100, other) for one, other in points]
    assert Noise(shifted).range_bound(3) == pytest.approx(Noise(points).range_bound(3))
    counted = Noise(points, takes_levels_out=False)
    assert counted.gap_bound(2) > 2 * Noise(points).gap_bound(2)
    incomplete = [*points, (1.0,)]  # then the seeds' levels count as noise
    assert Noise(incomplete).range_bound(3) > 2 * Noise(points).range_bound(3)


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5, 1.9, 2.1, 4.0])
def test_the_verdict_on_initializations_says_what_was_compared(spread: float):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    # Seeds 0.707 apart, neither better at all points: squares of 1 over three degrees. Of a mean
    # the error is 0.408, so four points span up to 2.79. The spans from 1.5 to 2.1 lie between
    # twice and four times the error of a difference, which is 0.577.
    starts = {"kaiming_normal": 60.0, "kaiming_uniform": 60.1, "normal": 60.2, "uniform": 60.0}
    starts["uniform"] += spread
    found = {
        name: list(turned((low, low + 0.5**0.5), i)) for i, (name, low) in enumerate(starts.items())
    }
    text = make.init_verdict(found)
    span, bound = (
        float(re.findall(pattern, text)[0])
        for pattern in (r"They span ([\d.]+)", r"would span up to ([\d.]+\d)")
    )
    assert span == spread and bound == pytest.approx(2.79, abs=0.03)
    assert ("do not differ beyond that" in text) == (span < bound)


def test_failed_trials_stand_in_the_table_with_their_reason_and_count_in_no_mean():
    make = load(ROOT / "docs" / "make_sensitivity.py")
    failing = alphas(50, 60) | {0.3: (61.5, "the loss | is <nan>"), 0.4: ("OOM", "OOM")}
    table = sweep_of("alpha", failing)
    text = make.rows(table, "loss.alpha")
    assert "| `0.3` | 61.50 | – | 61.5 failed (the loss &#124; is &lt;nan&gt;) |" in text
    assert "| `0.4` | – | – | failed (OOM) failed (OOM) |" in text
    verdict = make.alpha_verdict(make.groups(table, "loss.alpha"))
    assert "the others 60.15 to 61.50" in verdict and "where 8 points" in verdict
    without_zero = sweep_of("alpha", alphas(50, 60) | {0.0: ("OOM", "OOM")})
    assert "Too few" in make.alpha_verdict(make.groups(without_zero, "loss.alpha"))


def test_the_best_criterion_is_named_and_the_default_compared_with_it():
    make = load(ROOT / "docs" / "make_sensitivity.py")
    table = sweep_of("alpha", alphas(50, 60))
    text = make.criterion_verdict([table, INIT])
    assert text.startswith("Over both, `loss` follows the metric most closely (-1.00). ")
    assert "`flip_agreement`, is another** (no correlation)" in text
    reverse = make.criterion_verdict([sweep_of("alpha", alphas(50, 60), sign=1)])
    assert "(+1.00), though the wrong way round" in reverse
    swapped = {"loss": "flip_agreement", "flip_agreement": "loss"}
    for sign, judged in {1: "the best of them here", -1: "would choose badly"}.items():
        table = sweep_of("alpha", alphas(50, 60), sign)
        table = table.rename_columns([swapped.get(name, name) for name in table.column_names])
        text = make.criterion_verdict([table])
        assert "`flip_agreement` follows" in text and f"--objective auto`: {judged}" in text


def test_a_sweep_with_an_unfinished_trial_is_refused_and_so_is_one_of_failures(tmp_path: Path):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    config = SweepConfig(sweep=("head_init",), seeds=2)
    results.write(str(tmp_path), results.table(plan(config, BASE), {}, config))
    with pytest.raises(ValueError, match="0-head_init-kaiming_normal-seed-0 is unfinished"):
        make.read(str(tmp_path))
    results.write(str(tmp_path), sweep_of("head_init", dict.fromkeys(TABLE_6, ("OOM", "OOM"))))
    with pytest.raises(ValueError, match="no trial has finished"):
        make.read(str(tmp_path))


@pytest.mark.parametrize(
    ("place", "expected"),
    [("", "--data.train /data/x"), ("/data", "--data.train $C2AM_SHARED/x")],
)
def test_a_command_names_no_place_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, place: str, expected: str
):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    monkeypatch.setenv("C2AM_SHARED", place)
    told = {"command": ["python", "tune/sweep.py", "--data.train", "/data/x"]}
    assert make.command(told) == f"python tune/sweep.py {expected}"


def test_the_document_and_its_plots_are_written_from_two_folders(tmp_path: Path):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    failing = alphas(50, 60) | {0.4: ("OOM", "OOM")}
    for name, table in {"alpha": sweep_of("alpha", failing), "init": INIT}.items():
        (tmp_path / name).mkdir()
        results.write(str(tmp_path / name), table)
        (tmp_path / name / "sweep.json").write_text(json.dumps(TOLD))
    make.main(str(tmp_path / "alpha"), str(tmp_path / "init"), tmp_path)
    assert (tmp_path / "sensitivity.md").read_text().startswith("# Sensitivity")
    circles = {
        name: len(
            ET.parse(tmp_path / f"sensitivity_{name}.svg").findall(
                ".//{http://www.w3.org/2000/svg}circle"
            )
        )
        for name in ("alpha", "init")
    }
    assert circles == {"alpha": 9 * 2, "init": 4 * 2 + 4}
