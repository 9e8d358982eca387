"""Writes docs/sensitivity.md and its plots from two finished sweeps, beside the paper's figures.

python docs/make_sensitivity.py runs/alpha runs/head-init
"""

import html
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from c2am_dist import storage
from c2am_dist.sweep.noise import Noise
from c2am_dist.sweep.results import rank_correlation
from c2am_dist.sweep.spec import LABEL_FREE, SMALLER_IS_BETTER, SweepConfig

DOCS = Path(__file__).resolve().parent
ALPHA, INIT, METRIC = "loss.alpha", "model.head_init", "gt_known_loc"
# Xie et al. 2022, Table 6: GT-known Loc on ImageNet-1K. Figure 8 is a plot without numbers, and
# its text says: lowest at alpha 0, largely improved above, stable from 0.1 to 0.9.
TABLE_6 = {"kaiming_normal": 66.51, "kaiming_uniform": 66.44, "normal": 66.82, "uniform": 66.67}

BOUNDS = (
    "(19 of 20 times, by the pooled spread of the seeds less what a seed does to all points alike: "
    "Tukey's studentized range for a span, Student's t for a difference.)"
)

Groups = dict[Any, list[float]]
"""Swept value -> the metric of each finished seed."""


def read(folder: str) -> tuple[pa.Table, dict[str, Any]]:
    """The table of a sweep and what it was told.

    Raises:
        ValueError: a trial is unfinished, or none has finished; names it.
    """
    data = storage.read_bytes(storage.join(folder, "results.parquet"))
    table = pq.read_table(pa.BufferReader(data))
    for row in table.to_pylist():
        if row["status"] == "unfinished":
            raise ValueError(f"{folder}: {row['trial']} is unfinished")
    if "finished" not in table["status"].to_pylist():
        raise ValueError(f"{folder}: no trial has finished")
    return table, storage.read_json(storage.join(folder, "sweep.json"))


def groups(table: pa.Table, path: str) -> Groups:
    """The metric of finished trials by swept value, in the sweep's order."""
    found: Groups = {}
    for row in table.to_pylist():
        seeds = found.setdefault(row[path], [])
        if row["status"] == "finished":
            seeds.append(row[METRIC])
    return found


def rows(table: pa.Table, path: str, extra: Mapping[Any, str] | None = None) -> str:
    """Markdown rows: value, mean, spread, each seed, and the paper's figure where there is one."""
    lines = []
    for value, seeds in groups(table, path).items():
        each = " ".join(_seed(row) for row in table.to_pylist() if row[path] == value)
        mean = f"{statistics.mean(seeds):.2f}" if seeds else "–"
        spread = f"{statistics.stdev(seeds):.2f}" if len(seeds) > 1 else "–"
        cells = [f"`{value}`", mean, spread, each, *([extra[value]] if extra else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seed(row: Mapping[str, Any]) -> str:
    if row["status"] == "finished":
        return f"{row[METRIC]:.1f}"
    reason = html.escape(row["reason"] or "").replace("|", "&#124;").replace("`", "'")
    return f"{row['status']} ({reason})"


def alpha_verdict(found: Groups) -> str:
    """Whether alpha 0 is lowest and the rest flat, judged by the seeds' spread."""
    means = {alpha: statistics.mean(seeds) for alpha, seeds in found.items() if seeds}
    if 0.0 not in means or len(means) < 3:
        return "Too few points have a finished trial to judge the shape."
    zero = means.pop(0.0)
    low, high, mean = min(means.values()), max(means.values()), statistics.mean(means.values())
    noise = Noise(found.values())
    with_levels = Noise(found.values(), takes_levels_out=False).gap_bound(len(means))
    flat, clear = noise.range_bound(len(means)), noise.gap_bound(len(means))
    is_lowest, is_clear, is_flat = zero < low, mean - zero > clear, high - low < flat
    agrees = "agrees" if is_lowest and is_clear and is_flat else "does not agree in full"
    return (
        f"α = 0 gives {zero:.2f}, the others {low:.2f} to {high:.2f} (mean {mean:.2f}). "
        f"α = 0 is {'' if is_lowest else 'not '}the lowest. To it, the mean of the others is "
        f"{mean - zero:+.2f}, where up to {clear:.2f} may be chance ({with_levels:.2f} if "
        f"what a seed does to all points alike counted as chance, too): it is "
        f"{'' if is_clear else 'not '}clearly below. The others span {high - low:.2f}, "
        f"where {len(means)} points that do not differ would span up to {flat:.2f}: they are "
        f"{'' if is_flat else 'not '}flat. **The shape of figure 8 {agrees}.** {BOUNDS}"
    )


def init_verdict(found: Groups) -> str:
    """Whether the four initializations differ by more than seeds do."""
    means = [statistics.mean(seeds) for seeds in found.values() if seeds]
    if len(means) < 2:
        return "Too few points have a finished trial to compare them."
    ours, paper = max(means) - min(means), max(TABLE_6.values()) - min(TABLE_6.values())
    bound = Noise(found.values()).range_bound(len(means))
    is_flat = ours < bound
    return (
        f"They span {ours:.2f} points, the paper's {paper:.2f}; {len(means)} points that do not "
        f"differ would span up to {bound:.2f}. **The initializations "
        f"{'do not differ' if is_flat else 'do differ'} beyond that, "
        f"{'as' if is_flat else 'other than'} in Table 6.** {BOUNDS}"
    )


def correlations(tables: Sequence[pa.Table]) -> str:
    """Spearman's rank correlation of each label-free criterion with the metric, a table each."""
    lines = []
    for name in LABEL_FREE:
        values = [rank_correlation(table, METRIC, name) for table in [*tables, both(tables)]]
        cells = ["–" if value is None else f"{value:+.2f}" for value in values]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def both(tables: Sequence[pa.Table]) -> pa.Table:
    """The trials of several sweeps, with what is correlated."""
    return pa.concat_tables([t.select([METRIC, "status", *LABEL_FREE]) for t in tables])


def criterion_verdict(tables: Sequence[pa.Table]) -> str:
    """Which criterion ranks best over all trials, and whether it is the one used by default."""
    together = both(tables)
    found = {name: rank_correlation(together, METRIC, name) for name in LABEL_FREE}
    known = {name: rho for name, rho in found.items() if rho is not None}
    if not known:
        return "No criterion varies enough to rank the trials."
    best = max(known, key=lambda name: abs(known[name]))
    default = SweepConfig().chosen_objective
    is_reversed = (known[best] < 0) != (best in SMALLER_IS_BETTER)
    told = f"Over both, `{best}` follows the metric most closely ({known[best]:+.2f})"
    told += ", though the wrong way round: what it prefers scores worse" if is_reversed else ""
    if best == default:
        judged = "would choose badly" if is_reversed else "the best of them here"
        return f"{told}. **It is the default, `--objective auto`: {judged}.**"
    other = f"{known[default]:+.2f}" if default in known else "no correlation"
    return f"{told}. **The default of `--objective auto`, `{default}`, is another** ({other})."


def setting(table: pa.Table, told: Mapping[str, Any]) -> dict[str, str]:
    """What the trials of a sweep have in common, and how long they took."""
    config = told["config"]
    steps = sorted({row["steps"] for row in table.to_pylist() if row["status"] == "finished"})
    limit = config["data"]["limit"]
    return {
        "encoder": config["model"]["encoder"],
        "its weights": f"`{config['model']['weights'].rpartition('/')[2]}`",
        "steps": " or ".join(f"{number:,}" for number in steps),
        "images a step": f"{config['optim']['batch_size']:,}",
        "training images": "all" if limit is None else f"{limit:,}",
        "images scored": f"{told['sweep']['score_images']:,}",
        "trials": f"{len(table)}",
        "minutes, added up": f"{sum(table['seconds'].to_pylist()) / 60:.0f}",
    }


def command(told: Mapping[str, Any]) -> str:
    """A sweep's command line, without this machine's places for test data and runs."""
    words = [word.replace(os.environ.get("C2AM_SHARED") or "\0", "$C2AM_SHARED")
             for word in told["command"]]  # fmt: skip
    if "--run.storage" in words:
        words[words.index("--run.storage") + 1] = "runs"
    return " ".join(word if word.startswith("$") else shlex.quote(word) for word in words)


def plot(path: Path, series: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> None:
    """An SVG of points over named places: seeds as dots, means as a line; one colour a series."""
    width, height, left, bottom, top = 640, 320, 56, 40, 32
    places = list(next(iter(series.values())))
    values = [v for found in series.values() for seeds in found.values() for v in seeds]
    margin = 0.1 * (max(values) - min(values)) or 1.0
    low, high = min(values) - margin, max(values) + margin
    step = (width - left - 20) / len(places)

    def x(index: int) -> float:
        return left + step * (index + 0.5)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    style = "font: 12px sans-serif; fill: #555"
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(f'<path d="M{left} {y(value):.1f}H{width - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" '
                     f'style="{style}">{value:.1f}</text>')  # fmt: skip
    for index, place in enumerate(places):
        parts.append(f'<text x="{x(index):.1f}" y="{height - 18}" text-anchor="middle" '
                     f'style="{style}">{place}</text>')  # fmt: skip
    parts.append(f'<text x="8" y="16" style="{style}">{unit}</text>')
    for number, (name, found) in enumerate(series.items()):
        colour = ("#1f6fb2", "#c4571b")[number]
        means = [statistics.mean(found[place]) for place in places]
        line = " ".join(f"{x(i):.1f},{y(mean):.1f}" for i, mean in enumerate(means))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for i, place in enumerate(places):
            for value in found[place]:
                parts.append(f'<circle cx="{x(i):.1f}" cy="{y(value):.1f}" r="3" '
                             f'fill="{colour}"/>')  # fmt: skip
        parts.append(f'<text x="{width - 20}" y="{16 + 14 * number}" text-anchor="end" '
                     f'style="font: 12px sans-serif; fill: {colour}">{name}</text>')  # fmt: skip
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    path.write_text("\n".join([svg, *parts, "</svg>", ""]))


def centred(found: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Each value less the mean of the places' means, so that two data sets compare."""
    mean = statistics.mean(statistics.mean(seeds) for seeds in found.values())
    return {place: [value - mean for value in seeds] for place, seeds in found.items()}


def render(alpha: tuple[pa.Table, dict[str, Any]], init: tuple[pa.Table, dict[str, Any]]) -> str:
    """The content of docs/sensitivity.md."""
    (alphas, alpha_told), (inits, init_told) = alpha, init
    centre = next(c for c in alphas["centre_gt_known_loc"].to_pylist() if c is not None)
    paper = {name: f"{value:.2f}" for name, value in TABLE_6.items()}
    ours, theirs = setting(alphas, alpha_told), setting(inits, init_told)
    settings = "\n".join(f"| {name} | {ours[name]} | {theirs[name]} |" for name in ours)
    return f"""# Sensitivity

Made by `docs/make_sensitivity.py` from two finished sweeps; do not edit. The paper's sensitivity
study (Xie et al. 2022, section 5.4) on Tiny-ImageNet. The paper trains on ImageNet-1K, so what can
be compared is the shape, not the level. Scores are GT-known Loc with the honest threshold; the best
centred box gets {centre:.1f} on the same images.

| | α | initialization |
|---|---:|---:|
{settings}

```
{command(alpha_told)}
{command(init_told)}
```

## α (figure 8)

![GT-known Loc over alpha: seeds as dots, their means as a line](sensitivity_alpha.svg)

| α | mean | spread | seeds |
|---|---:|---:|---|
{rows(alphas, ALPHA)}

The paper's figure 8 is a plot without numbers; its text says that α = 0 is lowest, that anything
above is largely better, and that 0.1 to 0.9 are stable.
Here: {alpha_verdict(groups(alphas, ALPHA))}

## Initialization of the activation head (Table 6)

![Difference from the mean of the four initializations, ours and the paper's](sensitivity_init.svg)

| initialization | mean | spread | seeds | paper |
|---|---:|---:|---|---:|
{rows(inits, INIT, paper)}

{init_verdict(groups(inits, INIT))}

## Criteria that need no labels

Spearman's rank correlation with GT-known Loc over the finished trials: how well a criterion would
have ranked them without annotations. Of `loss` and `border_lock` less is better, so a useful one of
these correlates negatively.

| criterion | α | initialization | both |
|---|---:|---:|---:|
{correlations([alphas, inits])}

{criterion_verdict([alphas, inits])}
"""


def main(alpha_folder: str, init_folder: str, docs: Path = DOCS) -> None:
    """Reads both sweeps and writes the document and its plots."""
    alpha, init = read(alpha_folder), read(init_folder)
    by_alpha = {f"{value:g}": s for value, s in groups(alpha[0], ALPHA).items() if s}
    by_init = {name: seeds for name, seeds in groups(init[0], INIT).items() if seeds}
    plot(docs / "sensitivity_alpha.svg", {"Tiny-ImageNet": by_alpha}, "GT-known Loc, %")
    paper = {name: [TABLE_6[name]] for name in by_init}
    series = {"Tiny-ImageNet": centred(by_init), "paper, ImageNet-1K": centred(paper)}
    plot(docs / "sensitivity_init.svg", series, "GT-known Loc, points from the mean of the four")
    (docs / "sensitivity.md").write_text(render(alpha, init))


if __name__ == "__main__":
    alpha_of, init_of = sys.argv[1:]
    main(alpha_of, init_of)
