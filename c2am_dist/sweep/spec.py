"""A sweep on paper: its settings, its trials, and the command that trains each."""

import dataclasses
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from c2am_dist import storage
from c2am_dist.config import PRESETS, TrainConfig, flat, override, to_json
from c2am_dist.sweep import space

Annotated = Literal["gt_known_loc", "max_box_acc_v2"]
"""Objectives that need boxes."""
LabelFree = Literal[
    "loss", "confidence", "map_spread", "flip_agreement", "polarity_margin", "border_lock"
]
"""Criteria that need none; every table holds them all."""
Objective = Literal["auto", Annotated, LabelFree]
ANNOTATED: tuple[str, ...] = get_args(Annotated)
LABEL_FREE: tuple[str, ...] = get_args(LabelFree)
SMALLER_IS_BETTER = ("loss", "border_lock")
MAX_TRIALS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Train at many points of the config and compare; the same command again goes on."""

    sweep: tuple[str, ...] = ()
    """What varies, every combination: ``alpha``, ``head_init``, ``alpha-x-init``, ``lr``, or fields
    by dotted path: ``loss.alpha=0,0.1,0.2``, a range ``loss.alpha=0:0.9:0.1`` or
    ``optim.lr=1e-5:1e-2:*10``, which hold both ends."""
    seeds: int = 2
    """Trials a point: ``run.seed`` and those that follow it."""
    annotations: tuple[str, ...] = ()
    """Shards with boxes to score every trial on: one or more URIs. Without, trials are compared
    by a criterion that needs no labels, on training images."""
    objective: Objective = "auto"
    """What makes a trial better; ``auto`` is ``gt_known_loc`` where there are annotations, else
    ``flip_agreement``. Of ``loss`` and ``border_lock`` less is better, of all others more."""
    score_images: int = 1000
    """Images to score a trial on, spread evenly over the shards."""
    asha: bool = False
    """Stop trials that fall behind (ASHA); each is scored at its checkpoints, too."""
    asha_grace: float = 0.25
    """Share of its schedule that every trial is given before ASHA may stop it."""
    asha_factor: int = 2
    """At each of its rungs, each so many times as far as the last, ASHA lets one trial of so many
    go on."""
    concurrent: int | None = None
    """Trials at a time. If unset, as many as there are GPUs for, and CPUs to feed them; without
    GPUs, as many as there are nodes for."""
    retry_failed: bool = False
    """Run failed trials of an earlier start again."""

    def __post_init__(self) -> None:
        for name in ("seeds", "score_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.concurrent is not None and self.concurrent < 1:
            raise ValueError(f"concurrent must be positive, got {self.concurrent}")
        if not 0 < self.asha_grace < 1:
            raise ValueError(f"asha_grace must be in (0, 1), got {self.asha_grace}")
        if self.asha_factor < 2:
            raise ValueError(f"asha_factor must be at least 2, got {self.asha_factor}")
        if self.objective in ANNOTATED and not self.annotations:
            raise ValueError(f"objective {self.objective} needs --annotations URI")

    @property
    def chosen_objective(self) -> str:
        if self.objective == "auto":
            return "gt_known_loc" if self.annotations else "flip_agreement"
        return self.objective

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more of the objective is better."""
        return "min" if self.chosen_objective in SMALLER_IS_BETTER else "max"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training of a sweep."""

    name: str
    """Its folder below ``trials/``."""
    values: dict[str, Any]
    """Dotted path -> value, of the fields that are swept."""
    config: TrainConfig
    """Complete: the run's storage and name are the trial's."""

    @property
    def seed(self) -> int:
        return self.config.run.seed


def folder_of(base: TrainConfig) -> str:
    """The sweep's folder: that of a run of the name."""
    return storage.absolute(storage.join(base.run.storage, base.run.name))


def plan(sweep: SweepConfig, base: TrainConfig) -> list[Trial]:
    """Every trial, seed after seed, so that one that is cut short has seen most points.

    Raises:
        ValueError: a field has no value yet, is mistyped or out of range, alone or together with
            the others of its trial; or there are too many trials.
    """
    base.check_complete()
    if base.method != "c2am":
        raise ValueError(f"method must be c2am, got {base.method!r}: only maps can be scored")
    values = space.parse(sweep.sweep, base)
    points = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    num_trials = sweep.seeds * len(points)
    if num_trials > MAX_TRIALS:
        raise ValueError(f"sweep: {num_trials} trials are more than {MAX_TRIALS}")
    seeds = range(base.run.seed, base.run.seed + sweep.seeds)
    pairs = itertools.product(seeds, points)
    width = len(str(num_trials - 1))
    return [
        _trial(f"{index:0{width}d}", point, seed, base) for index, (seed, point) in enumerate(pairs)
    ]


def _trial(number: str, point: dict[str, Any], seed: int, base: TrainConfig) -> Trial:
    told = [f"{path.rpartition('.')[2]}-{_told(value)}" for path, value in point.items()]
    name = "-".join([number, *told, "seed", str(seed)])
    ours = {
        "run.seed": seed,
        "run.name": name,
        "run.storage": storage.join(folder_of(base), "trials"),
    }
    try:
        config = override(base, point | ours)
        config.check_complete()
    except ValueError as error:
        raise ValueError(f"sweep: {point}: {error}") from error
    return Trial(name=name, values=point, config=config)


def _told(value: Any) -> str:
    """A value in a folder's name, at most its last 24 characters."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return re.sub(r"[^\w.+-]", "_", text)[-24:]


def absolute(base: TrainConfig) -> TrainConfig:
    """The config with local paths that mean the same in every process."""
    weights = base.model.weights
    if weights != "none" and storage.exists(weights):
        weights = storage.absolute(weights)
    changes = {
        "data.train": tuple(storage.absolute(uri) for uri in base.data.train),
        "model.weights": weights,
        "run.storage": storage.absolute(base.run.storage),
    }
    return override(base, changes)


def command(trial: Trial) -> str:
    """The command line that trains the same as a trial, into ``runs/`` and the trial's name."""
    config = override(trial.config, {"run.storage": TrainConfig().run.storage})
    return shlex.join(["python", "jobs/train.py", *_flags(config)])


def _flags(config: TrainConfig) -> Iterator[str]:
    """What says how a config differs from its preset."""
    start = PRESETS[config.preset]
    if config.preset != TrainConfig().preset:
        yield from ("--preset", config.preset)
    usual = _tree(start)
    for path, value in _tree(config).items():
        if value == usual[path]:
            continue
        flag = path.replace("_", "-")
        if isinstance(value, bool):
            group, dot, last = flag.rpartition(".")
            yield f"--{flag}" if value else f"--{group}{dot}no-{last}"
        elif isinstance(value, list):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield from (f"--{flag}", str(value))


def _tree(config: TrainConfig) -> dict[str, Any]:
    return flat(json.loads(to_json(config)))


def differences(old: Any, new: Any) -> Sequence[str]:
    """What differs between two descriptions of a sweep, field by field."""
    before, after = flat(old), flat(new)
    return [
        f"{path} was {before.get(path)!r}, now {after.get(path)!r}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]
