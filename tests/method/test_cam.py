import math

import pytest
import torch
from torch import Tensor, nn

from c2am_dist.method.cam import class_activation, class_activation_maps, class_activation_of
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder

torch.set_num_threads(1)


def plain_maps(features: Tensor, weight: Tensor) -> list:
    """Zhou et al., eq. (2), cell by cell."""
    z, w = features.tolist(), weight.tolist()
    n, c, height, width = features.shape
    return [
        [
            [
                [sum(w[k][j] * z[i][j][y][x] for j in range(c)) for x in range(width)]
                for y in range(height)
            ]
            for k in range(len(w))
        ]
        for i in range(n)
    ]


def random_case(n: int = 3, c: int = 5, k: int = 4, h: int = 2, w: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(n, c, h, w, generator=generator, dtype=torch.float64)
    weight = torch.randn(k, c, generator=generator, dtype=torch.float64)
    return features, weight


def linear(weight: Tensor, bias: float = 0.0) -> nn.Linear:
    fc = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        fc.weight.copy_(weight)
        fc.bias.fill_(bias)
    return fc


@pytest.mark.parametrize("shape", [(3, 5, 4, 2, 3), (1, 5, 4, 2, 3), (2, 1, 1, 1, 1)])
def test_maps_are_the_equation_cell_by_cell(shape):
    features, weight = random_case(*shape)
    expected = torch.tensor(plain_maps(features, weight), dtype=torch.float64)
    torch.testing.assert_close(class_activation(features, weight), expected, atol=1e-14, rtol=0)
    n, k = len(features), len(weight)
    classes = torch.arange(n) % k
    torch.testing.assert_close(
        class_activation_of(features, weight, classes),
        expected[torch.arange(n), classes][:, None],
        atol=1e-14,
        rtol=0,
    )


def test_mean_of_a_map_and_the_bias_are_the_logit():
    features, weight = random_case()
    found = class_activation_maps(features, linear(weight, bias=7.0))
    means = class_activation(features, weight).mean(dim=(2, 3))
    torch.testing.assert_close(found.logits, means + 7.0)


def test_predicted_class_is_shown_unless_another_is_asked_for():
    features, weight = random_case()
    fc = linear(weight)
    predicted = class_activation_maps(features, fc)
    assert predicted.class_index.tolist() == predicted.logits.argmax(1).tolist()
    other = (predicted.class_index + 1) % len(weight)
    asked = class_activation_maps(features, fc, other)
    assert asked.class_index.tolist() == other.tolist()
    assert not torch.equal(asked.activation, predicted.activation)
    again = class_activation_maps(features, fc, predicted.class_index)
    assert torch.equal(again.activation, predicted.activation)
    torch.testing.assert_close(asked.logits, predicted.logits)


def test_each_image_is_stretched_to_zero_and_one_on_its_own():
    features, weight = random_case()
    features[1] *= 100
    activation = class_activation_maps(features, linear(weight)).activation
    assert activation.amin(dim=(1, 2, 3)).tolist() == [0.0] * 3
    assert activation.amax(dim=(1, 2, 3)).tolist() == [1.0] * 3


def test_constant_and_one_cell_maps_are_zero():
    _, weight = random_case()
    constant = (torch.zeros(2, 5, 2, 3), torch.full((2, 5, 2, 3), 3.0), torch.rand(1, 5, 1, 1))
    for features in map(torch.Tensor.double, constant):
        activation = class_activation_maps(features, linear(weight)).activation
        assert activation.eq(0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_image_shows_as_nan_and_leaves_others_alone(value):
    features, weight = random_case()
    whole = class_activation_maps(features, linear(weight), torch.tensor([0, 1, 2])).activation
    features[1, 0, 0, 0] = value
    broken = class_activation_maps(features, linear(weight), torch.tensor([0, 1, 2])).activation
    assert broken[1].isnan().any()
    assert torch.equal(broken[::2], whole[::2])


@pytest.mark.parametrize("stray", [-1, 4])
def test_index_that_is_no_class_is_named(stray):
    features, weight = random_case()
    with pytest.raises(ValueError, match=f"class {stray} is not one of 4"):
        class_activation_of(features, weight, torch.tensor([0, stray, 1]))


def test_maps_are_float32_under_autocast():
    features, weight = random_case()
    with torch.autocast("cpu", torch.bfloat16):
        maps = class_activation(features.bfloat16(), weight.float())
    assert maps.dtype == torch.float32
    exact = class_activation(features.bfloat16().double(), weight)
    torch.testing.assert_close(maps.double(), exact, atol=1e-5, rtol=0)


def test_maps_of_a_classifier_explain_its_logits():
    classifier = Classifier(build_encoder("resnet18"), num_classes=3).eval()
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        features = classifier.encoder.last_stage(classifier.encoder(images))
        found = class_activation_maps(features, classifier.fc)
        torch.testing.assert_close(found.logits, classifier(images))
    assert found.activation.shape == (2, 1, 3, 4)
