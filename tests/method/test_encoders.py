import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from c2am_dist.method import encoders
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder, freeze_norm
from c2am_dist.method.weights import (
    load_weights,
)

torch.set_num_threads(1)


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


def test_unknown_encoder_and_stride_are_named():
    with pytest.raises(ValueError, match="'resnet152'"):
        build_encoder("resnet152")
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        build_encoder("resnet18", output_stride=4)


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
