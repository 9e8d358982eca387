"""What docs/make_sensitivity.py says of two sweeps; their figures are made up here."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from c2am_dist.config import TrainConfig, override
from c2am_dist.sweep import results
from c2am_dist.sweep.results import Record
from c2am_dist.sweep.spec import SweepConfig, plan
from tests.test_docs import ROOT, load

BASE = override(
    TrainConfig(), {"data.train": ("x",), "model.weights": "none", "run.name": "sensitivity"}
)
TABLE_6 = {"kaiming_normal": 66.51, "kaiming_uniform": 66.44, "normal": 66.82, "uniform": 66.67}
TOLD = {"sweep": {"score_images": 1000}, "command": ["python", "tune/sweep.py", "--sweep", "a=1:2"]}


def sweep_of(name: str, by_value: Mapping[object, tuple[float, float]]) -> pa.Table:
    config = SweepConfig(sweep=(name,), seeds=2, annotations=("x",))
    trials = plan(config, BASE)
    records = {}
    for trial in trials:
        (value,) = trial.values.values()
        score = by_value[value][trial.seed]
        figures = {"gt_known_loc": score, "centre_gt_known_loc": 56.9, "loss": -score}
        records[trial.name] = Record(status="finished", figures=figures, seconds=60.0)
    return results.table(trials, records, config)


INIT = sweep_of("head_init", {name: (value, value + 0.5) for name, value in TABLE_6.items()})


@pytest.mark.parametrize(
    ("at_zero", "at_half", "agrees"), [(50.0, 60.1, True), (60.0, 60.1, False), (50.0, 55.0, False)]
)
def test_the_verdict_follows_from_the_figures(
    tmp_path: Path, at_zero: float, at_half: float, agrees: bool
):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    by_alpha = {i / 10: (60.0 + i / 100, 60.4) for i in range(10)}
    by_alpha |= {0.0: (at_zero, at_zero + 0.4), 0.5: (at_half, at_half + 0.3)}
    text = make.render((sweep_of("alpha", by_alpha), TOLD), (INIT, TOLD))
    assert ("The shape of figure 8 agrees" in text) == agrees
    assert "do not differ beyond that, as in Table 6" in text
    assert "| `normal` | 67.07 | 0.35 | 66.8 67.3 | 66.82 |" in text
    assert "| `loss` | -1.00 | -1.00 | -1.00 |" in text
    assert "python tune/sweep.py --sweep a=1:2" in text
    assert "56.9 on these images" in text and "28 minutes" in text


def test_a_sweep_with_an_unfinished_trial_is_refused(tmp_path: Path):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    config = SweepConfig(sweep=("head_init",), seeds=2)
    results.write(str(tmp_path), results.table(plan(config, BASE), {}, config))
    with pytest.raises(ValueError, match="0-head_init-kaiming_normal-seed-0 is unfinished"):
        make.read(str(tmp_path))


def test_the_plots_are_drawings_with_a_point_a_seed(tmp_path: Path):
    make = load(ROOT / "docs" / "make_sensitivity.py")
    ours = make.groups(INIT, "model.head_init")
    paper = {name: [value] for name, value in TABLE_6.items()}
    series = {"ours": make.centred(ours), "paper": make.centred(paper)}
    make.plot(tmp_path / "x.svg", series, "points")
    circles = ET.parse(tmp_path / "x.svg").findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 4 * 2 + 4
