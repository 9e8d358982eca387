import argparse
import io
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.weights import (
    WeightsError,
    is_weights_name,
    linear_layer,
    load_weights,
    read_state_dict,
    torchvision_state_dict,
)

torch.set_num_threads(1)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def prefixed(state_dict: Mapping[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + key, value) for key, value in state_dict.items())


def test_densenets_of_torchvisions_own_files_load_though_their_keys_are_old():
    encoder = build_encoder("densenet161")
    keys = {key: value for key, value in encoder.state_dict().items() if "num_batches" not in key}
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value + 1
        for key, value in keys.items()
    }
    assert len(old.keys() - keys.keys()) == 780
    report = load_weights(encoder, old)
    assert set(report.matched) == keys.keys() and not report.unexpected
    key = "features.denseblock4.denselayer24.conv2.weight"
    assert torch.equal(encoder.state_dict()[key], old[key.replace("conv2", "conv.2")])


@pytest.mark.parametrize(
    ("wrap", "unexpected"),
    [
        pytest.param(lambda d: d, {"fc.weight", "fc.bias"}, id="torchvision"),
        pytest.param(
            lambda d: {"state_dict": prefixed(d, "module."), "epoch": 5, "arch": "resnet18"},
            {"fc.weight", "fc.bias"},
            id="data-parallel training script",
        ),
        pytest.param(
            lambda d: {
                "epoch": 200,
                "state_dict": prefixed(d, "module.encoder_q.")
                | prefixed({key: v + 1 for key, v in d.items()}, "module.encoder_k.")
                | {"module.queue": torch.zeros(8, 16)},
                "optimizer": {"state": {}, "param_groups": []},
            },
            {"fc.weight", "queue", "encoder_k.conv1.weight"},
            id="moco",
        ),
        pytest.param(
            lambda d: {
                "student": prefixed({key: v + 1 for key, v in d.items()}, "module.backbone."),
                "teacher": prefixed(d, "backbone.") | {"head.mlp.0.weight": torch.zeros(4, 4)},
                "epoch": 100,
                "args": argparse.Namespace(arch="resnet18", lr=0.03),
            },
            {"head.mlp.0.weight", "fc.bias"},
            id="dino training checkpoint",
        ),
        pytest.param(
            lambda d: {"model": prefixed(d, "encoder."), "step": 3}, {"fc.weight"}, id="our own"
        ),
    ],
)
@pytest.mark.parametrize("is_legacy_file", [False, True])
def test_published_layouts_fill_every_key(encoder, state_dict, wrap, unexpected, is_legacy_file):
    data = saved(wrap(state_dict), _use_new_zipfile_serialization=not is_legacy_file)
    nn.init.zeros_(encoder.conv1.weight)
    report = load_weights(encoder, read_state_dict(data, "file.pth"))
    assert set(report.matched) == set(encoder.state_dict())
    assert report.missing == ()
    assert unexpected <= set(report.unexpected)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state_dict[key]), key


def test_models_of_this_project_exchange_encoders(encoder):
    classifier = Classifier(build_encoder("resnet18"), num_classes=3)
    model = C2AM(encoder)
    report = load_weights(model.encoder, {"model": classifier.state_dict()})
    assert report.unexpected == ("fc.bias", "fc.weight")
    report = load_weights(classifier.encoder, model.state_dict())
    assert report.missing == ()
    assert "disentangler.conv.weight" in report.unexpected


def test_half_precision_is_widened(encoder, state_dict):
    half = {key: v.half() if v.is_floating_point() else v for key, v in state_dict.items()}
    load_weights(encoder, half)
    assert encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.conv1.weight, state_dict["conv1.weight"].half().float())


def test_shared_checkpoint_loads(shared, encoder):
    path = shared / "weights" / "resnet18-tinyimagenet-early.pth"
    report = load_weights(encoder, read_state_dict(path.read_bytes(), str(path)))
    assert (len(report.matched), report.missing) == (120, ())
    assert report.unexpected == ("fc.bias", "fc.weight")


def test_counters_may_lack_and_start_at_zero(encoder, state_dict):
    encoder.bn1.num_batches_tracked.fill_(7)
    old = {key: v for key, v in state_dict.items() if "num_batches" not in key}
    report = load_weights(encoder, old)
    assert "bn1.num_batches_tracked" in report.missing
    assert len(report.missing) == 20
    assert encoder.bn1.num_batches_tracked.item() == 0


def without(state_dict: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state_dict.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: without(d, "layer4.1.conv2.weight"), "1 of 100 .* layer4.1.conv2.weight is mis"),
        (lambda d: {}, "100 of 100 .* conv1.weight is missing.* and 97 more"),
        (lambda d: prefixed(d, "momentum_encoder."), "100 of 100"),
        (
            lambda d: d | {"conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"conv1.weight has shape \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)",
        ),
        (lambda d: d | {"bn1.bias": torch.full((64,), math.nan)}, "bn1.bias is not finite"),
        (
            lambda d: d | {"bn1.bias": torch.zeros(64, dtype=torch.int8)},
            "bn1.bias holds torch.int8",
        ),
        (lambda d: d | {"bn1.bias": "text"}, "bn1.bias is missing"),
        (lambda d: d | {"module.conv1.weight": d["conv1.weight"]}, "two keys .*'conv1.weight'"),
    ],
)
def test_file_that_does_not_fill_every_key_is_refused(encoder, state_dict, change, message):
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(encoder, change(state_dict))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_checkpoint_of_another_architecture_is_refused(state_dict):
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight has shape"):
        load_weights(build_encoder("resnet50"), state_dict)
    with pytest.raises(WeightsError, match=r"features.0.weight is missing"):
        load_weights(build_encoder("vgg16"), state_dict)


class Custom:
    """Stands for any pickled object that is not plain data."""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a checkpoint", id="text"),
        pytest.param(saved({"conv1.weight": torch.zeros(99)})[:-200], id="truncated"),
        pytest.param(
            saved({"w": torch.zeros(99)}, _use_new_zipfile_serialization=False)[:-50],
            id="truncated legacy file",
        ),
        pytest.param(saved({"hook": Custom()}), id="pickled code"),
        pytest.param(saved([torch.zeros(1)]), id="not a dict"),
    ],
)
def test_unreadable_checkpoint_is_named(data):
    with pytest.raises(WeightsError, match=r"s3://bucket/w\.pth: "):
        read_state_dict(data, "s3://bucket/w.pth")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IMAGENET1K_V2", True),
        ("ResNet50_Weights.IMAGENET1K_V2", True),
        ("DEFAULT", True),
        ("none", False),
        ("weights/r18.pth", False),
        ("s3://bucket/R18.pth", False),
        ("./DEFAULT", False),
    ],
)
def test_weights_names_are_told_from_paths(text, expected):
    assert is_weights_name(text) is expected


@pytest.mark.parametrize(
    ("encoder_name", "weights_name"),
    [
        ("resnet18", "IMAGENET1K_V2"),
        ("resnet18", "ResNet50_Weights.IMAGENET1K_V1"),
        ("vgg16", "IMAGENET1K_FEATURES"),  # expects inputs in another range
    ],
)
def test_unknown_torchvision_weights_list_the_known_ones(encoder_name, weights_name):
    with pytest.raises(WeightsError, match=f"{weights_name!r}; there are IMAGENET1K_V1, DEFAULT"):
        torchvision_state_dict(encoder_name, weights_name)


def test_torchvision_weights_come_from_its_cache(tmp_path, monkeypatch, state_dict):
    # torchvision verifies downloads, not what its cache already holds.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    cached = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(saved(state_dict))
    found = torchvision_state_dict("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(found["fc.weight"], state_dict["fc.weight"])
    cached.write_bytes(b"broken")
    with pytest.raises(WeightsError, match="resnet18 weights DEFAULT: could not be fetched"):
        torchvision_state_dict("resnet18", "DEFAULT")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["fc", "classifier"])
def test_the_layer_over_pooled_features_is_found_under_wrappers(name: str, prefix: str):
    weight, bias = torch.rand(3, 512, dtype=torch.float16), torch.rand(3, dtype=torch.float16)
    nested = {"state_dict": {f"{prefix}{name}.weight": weight, f"{prefix}{name}.bias": bias}}
    found = linear_layer(nested, 512)
    assert found is not None and found[0].dtype == torch.float32
    assert torch.equal(found[0], weight.float()) and torch.equal(found[1], bias.float())
    assert linear_layer(nested, 2048) is None, "it is over other features"
    assert linear_layer({f"{name}.weight": weight}, 512) is None, "it has no bias"
