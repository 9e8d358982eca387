import argparse
import io
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from c2am_dist.method import encoders
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import (
    Encoder,
    WeightsError,
    build_encoder,
    freeze_norm,
    is_weights_name,
    load_weights,
    read_state_dict,
    torchvision_state_dict,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    """A whole torchvision ResNet-18, told apart from any freshly built encoder."""
    model = torchvision.models.resnet18()
    nn.init.constant_(model.bn1.running_mean, 0.25)
    return model.state_dict()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder("resnet18")


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def prefixed(state_dict: Mapping[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + key, value) for key, value in state_dict.items())


@pytest.mark.parametrize(
    ("name", "num_features", "num_last"),
    [
        ("resnet18", 768, 512),
        ("resnet34", 768, 512),
        ("resnet50", 3072, 2048),
        ("resnet101", 3072, 2048),
        ("vgg16", 512, 512),
        ("densenet161", 2208, 2208),
    ],
)
def test_features_have_stride_16_and_the_documented_channels(name, num_features, num_last):
    with torch.device("meta"):  # shapes only
        encoder = build_encoder(name).to("meta")
        features = encoder(torch.empty(2, 3, 96, 64))
    assert features.shape == (2, num_features, 6, 4)
    assert encoder.num_features == num_features
    assert encoder.last_stage(features).shape == (2, num_last, 6, 4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_are_layer4_at_stride_1_then_layer3(name):
    reference = getattr(torchvision.models, name)().eval()
    for module in reference.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    encoder = build_encoder(name).eval()
    load_weights(encoder, reference.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = encoder(images)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        layer3 = reference.layer3(reference.layer2(reference.layer1(x)))
        layer4 = reference.layer4(layer3)
    assert torch.equal(encoder.last_stage(features), layer4)
    assert torch.equal(features[:, encoder.num_last_features :], layer3)
    assert not any(m.dilation != (1, 1) for m in encoder.modules() if isinstance(m, nn.Conv2d))


def test_vgg_features_come_before_the_fifth_pooling():
    encoder = build_encoder("vgg16").eval()
    with torch.device("meta"):
        reference = torchvision.models.vgg16().features
    reference = reference[:30].to_empty(device="cpu")
    reference.load_state_dict(
        {key.removeprefix("features."): value for key, value in encoder.state_dict().items()}
    )
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(images), reference(images))
    assert isinstance(reference[-1], nn.ReLU)
    assert all(torch.isfinite(p).all() and p.std() > 0 for p in encoder.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "output_stride", "num_features"),
    [
        ("resnet18", 8, 768),
        ("resnet34", 8, 768),
        ("resnet50", 8, 3072),
        ("vgg16", 8, 512),
        ("densenet161", 8, 2208),
        ("resnet50", 32, 2048),
        ("vgg16", 32, 512),
        ("densenet161", 32, 2208),
    ],
)
def test_another_stride_changes_cells_and_no_key(name, output_stride, num_features):
    with torch.device("meta"):  # shapes only
        encoder = build_encoder(name, output_stride=output_stride).to("meta")
        at_16 = build_encoder(name).to("meta")
        features = encoder(torch.empty(2, 3, 224, 160, device="meta"))
    assert features.shape == (2, num_features, 224 // output_stride, 160 // output_stride)
    assert encoder.num_features == num_features
    shapes = {key: value.shape for key, value in encoder.state_dict().items()}
    assert shapes == {key: value.shape for key, value in at_16.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "densenet161"])
def test_at_stride_32_the_features_are_those_torchvision_classifies(name):
    reference = getattr(torchvision.models, name)().eval()
    encoder = build_encoder(name, output_stride=32).eval()
    report = load_weights(encoder, reference.state_dict())
    assert {key.split(".")[0] for key in report.unexpected} <= {"fc", "classifier"}
    images = torch.randn(1, 3, 64, 64)
    taken = []
    pooling = reference.avgpool if name != "densenet161" else reference.classifier
    pooling.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        reference(images)
        features = encoder.last_stage(encoder(images))
    if name == "densenet161":  # pooled by a function
        features = features.mean(dim=(2, 3))
    torch.testing.assert_close(features, taken[0], atol=1e-6, rtol=1e-5)


def test_stride_8_runs_layer3_and_layer4_a_cell_at_a_time():
    reference = torchvision.models.resnet18().eval()
    for stage in (reference.layer3, reference.layer4):
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
    encoder = build_encoder("resnet18", output_stride=8).eval()
    load_weights(encoder, reference.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        layer3 = reference.layer3(reference.layer2(reference.layer1(x)))
        expected = torch.cat([reference.layer4(layer3), layer3], dim=1)
        assert torch.equal(encoder(images), expected)


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


def test_unknown_encoder_and_stride_are_named():
    with pytest.raises(ValueError, match="'resnet152'"):
        build_encoder("resnet152")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        build_encoder("resnet18", output_stride=4)


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


def test_frozen_norm_survives_training_mode(encoder, state_dict):
    load_weights(encoder, state_dict)
    frozen = build_encoder("resnet18")
    load_weights(frozen, state_dict)
    freeze_norm(frozen)
    model = C2AM(frozen).train()
    statistics = frozen.layer2[0].bn1.running_mean.clone()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encoder(images), encoder.eval()(images))
    assert torch.equal(frozen.layer2[0].bn1.running_mean, statistics)
    assert model.disentangler.norm.training  # the head's own is never frozen
    assert frozen.layer1.training


def test_norm_follows_the_mode_unless_frozen(encoder):
    assert encoder.train().bn1.training
    assert not encoder.eval().bn1.training


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


def test_classifier_pools_the_last_stage_only(encoder):
    classifier = Classifier(encoder, num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled = encoder(images)[:, :512].mean(dim=(2, 3))
        expected = pooled @ classifier.fc.weight.T + classifier.fc.bias
        torch.testing.assert_close(classifier(images), expected)
    assert classifier.fc.weight.shape == (4, 512)
    with pytest.raises(ValueError, match="num_classes must be >= 1, got 0"):
        Classifier(encoder, num_classes=0)


def test_normalised_batch_is_torchvisions_in_channels_last():
    from torchvision.transforms.functional import normalize, to_tensor

    batch = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    normal = encoders.normalise(torch.from_numpy(batch))
    expected = torch.stack(
        [normalize(to_tensor(b), list(encoders.MEAN), list(encoders.STD)) for b in batch]
    )
    torch.testing.assert_close(normal, expected, atol=1e-6, rtol=1e-6)
    assert normal.is_contiguous(memory_format=torch.channels_last)
