import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from c2am_dist.config import (
    PRESETS,
    DataConfig,
    LabelConfig,
    LossConfig,
    OptimConfig,
    ScalingConfig,
    TrainConfig,
    digest,
    override,
    to_json,
)

ROOT = Path(__file__).resolve().parents[1]


def test_override_replaces_a_field_by_its_dotted_path():
    config = override(TrainConfig(), {"loss.alpha": 0.75, "method": "classifier"})
    assert config.loss.alpha == 0.75
    assert config.method == "classifier"
    assert config.optim == TrainConfig().optim


@pytest.mark.parametrize("path", ["loss.alhpa", "los.alpha", "optim.lr.x"])
def test_override_refuses_a_path_that_names_no_field(path: str):
    with pytest.raises((ValueError, TypeError), match=re.escape(path.split(".")[-1])):
        override(TrainConfig(), {path: 1.0})


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: LossConfig(alpha=-1.0), "loss.alpha"),
        (lambda: DataConfig(resize_px=100, crop_px=128), "data.resize_px"),
        (lambda: DataConfig(crop_px=8), "data.crop_px"),
        (lambda: OptimConfig(batch_size=0), "optim.batch_size"),
        (lambda: OptimConfig(momentum=1.0), "optim.momentum"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr"),
        (lambda: ScalingConfig(num_workers=0), "scaling.num_workers"),
        (lambda: ScalingConfig(num_workers=(4, 2)), "scaling.num_workers"),
        (lambda: LabelConfig(threshold=1.5), "threshold"),
        (lambda: LabelConfig(scales=()), "scales"),
        (
            lambda: override(TrainConfig(), {"optim.batch_size": 3, "optim.accumulation": 4}),
            "optim",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_path(make, path: str):
    with pytest.raises(ValueError, match=path):
        make()


def test_published_constants():
    assert PRESETS["imagenet"].loss.alpha == 0.05
    assert PRESETS["imagenet"].optim.batch_size == 256
    assert PRESETS["cub"].data.crop_px == 448
    assert PRESETS["cub"].optim.epochs == 20
    assert PRESETS["voc"].loss.alpha == 0.25
    assert PRESETS["voc"].optim.lr == 1e-3
    for name in ("custom", "imagenet", "cub", "voc"):
        preset = PRESETS[name]
        assert preset.method == "c2am"
        assert preset.optim.weight_decay == 1e-4
        assert preset.optim.power == 0.9
        assert preset.optim.head_lr_factor == 10


@pytest.mark.parametrize(
    ("preset", "constants"),
    [
        ("bridging-cub", "RESNET50_CUB"),
        ("bridging-cub-vgg16", "VGG16_CUB"),
        ("bridging-imagenet", "RESNET50_IMAGENET"),
        ("bridging-imagenet-vgg16", "VGG16_IMAGENET"),
    ],
)
def test_the_constants_of_bridging_the_gap_are_those_of_the_method(preset: str, constants: str):
    from c2am_dist.method import bridging

    config = PRESETS[preset]
    assert config.method == "bridging"
    ours = bridging.BridgingConstants(**dataclasses.asdict(config.bridging))
    assert ours == getattr(bridging, constants)
    assert config.optim.batch_size == (64 if "vgg" in preset else 32)


def test_psol_scales_its_learning_rate_with_the_batch():
    config = PRESETS["psol"]
    assert (config.method, config.output_stride, config.optim.epochs) == ("psol", 32, 6)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 1e-4)
    assert (config.optim.scaled_lr, config.optim.head_lr_factor) == (1e-3, 2.0)
    smaller = override(config, {"optim.batch_size": 64})
    assert smaller.optim.scaled_lr == pytest.approx(1e-3 / 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.boxes": ("x",)}, r"data\.boxes must be unset with method c2am"),
        ({"method": "classifier", "data.boxes": ("x",)}, r"data\.boxes must be unset with method"),
        ({"model.output_stride": 32}, r"model\.output_stride must be 16 with c2am, got 32"),
        (
            {"method": "bridging", "model.encoder": "densenet161"},
            r"model\.encoder must be a ResNet",
        ),
        (
            {"method": "bridging", "optim.compile": True},
            r"optim\.compile must be off with bridging",
        ),
        ({"model.last_layer": "weights"}, r"model\.last_layer must be 'new'"),
        (
            {"method": "classifier", "model.last_layer": "weights", "model.weights": "none"},
            r"model\.last_layer must be 'new' with random weights",
        ),
        ({"method": "psol", "data.random_resize": True}, r"data\.random_resize must be off"),
        ({"bridging.background_threshold": 0.5}, r"bridging\.background_threshold must be in"),
        ({"bridging.drop_rate": 1.5}, r"bridging\.drop_rate must be in \[0, 1\]"),
        ({"optim.decay_epochs": (3.0, 0.0)}, r"optim\.decay_epochs must be positive"),
        ({"optim.nesterov": True, "optim.momentum": 0.0}, r"optim\.nesterov must be off"),
    ],
)
def test_what_a_method_cannot_use_is_refused_by_its_dotted_path(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        override(TrainConfig(), changes)


def test_psol_without_boxes_is_incomplete():
    given = {"data.train": ("x",), "model.weights": "none", "run.name": "r", "method": "psol"}
    with pytest.raises(ValueError, match=r"data\.boxes must be given with psol"):
        override(TrainConfig(), given).check_complete()


def test_the_digest_follows_every_field_and_nothing_else():
    one = TrainConfig()
    assert digest(one) == digest(override(one, {"loss.alpha": one.loss.alpha}))
    assert digest(one) != digest(override(one, {"loss.alpha": 0.06}))
    assert json.loads(to_json(one)) == json.loads(json.dumps(dataclasses.asdict(one)))


@pytest.mark.parametrize("missing", ["data.train", "model.weights", "run.name"])
def test_a_required_field_is_named_when_it_is_not_given(missing: str):
    given = {"data.train": ("x",), "model.weights": "none", "run.name": "r"}
    empty = {"data.train": (), "model.weights": "", "run.name": ""}
    config = override(TrainConfig(), {**given, missing: empty[missing]})
    with pytest.raises(ValueError, match=missing):
        config.check_complete()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_an_unknown_flag_is_refused_with_a_suggestion():
    result = _run("jobs/train.py", "--loss.alhpa", "0.1")
    assert result.returncode == 2
    assert "--loss.alhpa" in result.stderr + result.stdout
    assert "--loss.alpha" in result.stderr + result.stdout


def test_a_negative_alpha_is_refused_in_one_line_by_the_job():
    result = _run("jobs/train.py", "--loss.alpha", "-1")
    assert result.returncode != 0
    assert "loss.alpha must be >= 0" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_a_preset_is_a_starting_point_that_flags_override():
    code = (
        "import sys; sys.path.insert(0, 'jobs'); import train; "
        "c, _ = train.parse(['--preset', 'cub', '--loss.alpha', '0.75']); "
        "print(c.preset, c.loss.alpha, c.data.crop_px, c.optim.batch_size)"
    )
    assert _run("-c", code).stdout.split() == ["cub", "0.75", "448", "16"]


def test_the_command_line_is_the_documented_one():
    """Flags multiply unseen; a change shows here and in CHANGELOG.md."""
    snapshot = (ROOT / "tests" / "cli_flags.txt").read_text().splitlines()
    assert cli_flags() == snapshot


def cli_flags() -> list[str]:
    from c2am_dist.assumptions import DryRun
    from c2am_dist.config import (
        ClassifyConfig,
        EvaluateConfig,
        EvaluateMasksConfig,
        ExportConfig,
        PrepareConfig,
        RefineConfig,
    )
    from c2am_dist.config.reproduce import WsolConfig
    from c2am_dist.config.reproduce_masks import WsssConfig
    from c2am_dist.sweep.spec import SweepConfig

    roots = {
        "train": [TrainConfig(), DryRun()],
        "prepare": [PrepareConfig()],
        "label": [LabelConfig(), DryRun()],
        "refine": [RefineConfig()],
        "classify": [ClassifyConfig()],
        "evaluate": [EvaluateConfig()],
        "evaluate_masks": [EvaluateMasksConfig()],
        "export": [ExportConfig()],
        "sweep": [SweepConfig()],  # and train's
        "reproduce": [WsolConfig()],
        "reproduce wsss": [WsssConfig()],
    }
    return [
        f"{job} {flag}"
        for job, both in roots.items()
        for root in both
        for flag in _flags(root, "--")
    ]


def _flags(config, prefix: str) -> list[str]:
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        found += _flags(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return found
