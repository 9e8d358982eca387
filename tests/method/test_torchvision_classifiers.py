import math

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize, ten_crop

from c2am_dist.method import encoders, images
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.torchvision_classifiers import (
    InputSpec,
    average_crops,
    classifier_names,
    classify,
    input_spec,
    load_classifier,
    single_crop,
    ten_crops,
    top_classes,
)
from c2am_dist.method.weights import WeightsError, read_state_dict

torch.set_num_threads(1)
IMAGENET = (encoders.MEAN, encoders.STD)


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    return torchvision.models.resnet18(num_classes=7).state_dict()


def test_names_are_classifiers_alone():
    assert {"efficientnet_b7", "resnet50", "vit_b_16", "densenet161"} <= set(classifier_names())
    assert not {"fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18"} & set(classifier_names())


@pytest.mark.parametrize(
    ("name", "weights_name", "expected"),
    [
        ("efficientnet_b7", "DEFAULT", InputSpec(600, 600, *IMAGENET)),
        ("resnet50", "IMAGENET1K_V1", InputSpec(256, 224, *IMAGENET)),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2", InputSpec(232, 224, *IMAGENET)),
        ("efficientnet_v2_l", "DEFAULT", InputSpec(480, 480, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_input_is_what_the_published_weights_were_evaluated_with(name, weights_name, expected):
    assert input_spec(name, weights_name) == expected


def test_unknown_names_are_answered_with_those_there_are(state_dict):
    with pytest.raises(ValueError, match=r"'efficientnetb7'; did you mean efficientnet_b7 or"):
        load_classifier("efficientnetb7", {})
    with pytest.raises(ValueError, match=r"no classifier 'zzz'; such as alexnet,"):
        input_spec("zzz")
    with pytest.raises(ValueError, match="no classifier 'fcn_resnet50'"):
        input_spec("fcn_resnet50")
    with pytest.raises(WeightsError, match="there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        input_spec("resnet50", "IMAGENET1K_V3")


# One of each kind: BatchNorm buffers, keys that begin with "encoder.", buffers of whole numbers,
# auxiliary heads and inputs in another range, a convolution as last layer, a trunk of its own.
@pytest.mark.parametrize(
    "name", ["vit_b_32", "swin_t", "googlenet", "squeezenet1_1", "regnet_x_400mf"]
)
def test_classifier_of_any_kind_is_filled_from_its_file(name, monkeypatch):
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    reference = torchvision.models.get_model(name, num_classes=5, **options).eval()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}
    loaded = load_classifier(name, wrapped)
    assert loaded.num_classes == 5 and not loaded.report.unexpected
    assert set(loaded.report.matched) == reference.state_dict().keys()
    side = 224 if name.startswith("vit") else 64
    batch = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(batch), reference(batch))


def test_every_key_is_checked(state_dict):
    lacking = {key: v for key, v in state_dict.items() if key != "layer3.0.conv1.weight"}
    with pytest.raises(WeightsError, match=r"1 of 102 classifier keys .* layer3.0.conv1.weight is"):
        load_classifier("resnet18", lacking)
    broken = state_dict | {"fc.bias": torch.full((7,), math.nan)}
    with pytest.raises(WeightsError, match=r"fc.bias is not finite"):
        load_classifier("resnet18", broken)
    with pytest.raises(WeightsError, match=r"fc.bias is missing: not the weights of a resnet18 "):
        load_classifier("resnet18", {k: v for k, v in state_dict.items() if "fc" not in k})
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight has shape"):
        load_classifier("resnet50", state_dict)
    with pytest.raises(WeightsError, match=r"fc.weight has shape \(7, 9\) instead of \(7, 512\)"):
        load_classifier("resnet18", state_dict | {"fc.weight": torch.zeros(7, 9)})


def test_shared_classifier_loads_with_its_own_classes(shared):
    data = (shared / "weights" / "resnet18-tinyimagenet.pth").read_bytes()
    loaded = load_classifier("resnet18", read_state_dict(data, "r18"))
    assert loaded.num_classes == 200
    assert not loaded.model.training


def test_crops_are_torchvisions():
    batch = torch.rand(2, 3, 9, 12)
    torch.testing.assert_close(single_crop(batch, 5), center_crop(batch, [5, 5]))
    expected = torch.stack(ten_crop(batch, [5, 5]), dim=1)
    assert torch.equal(ten_crops(batch, 5), expected)
    whole = ten_crops(batch[..., :9], 9)
    assert torch.equal(whole[:, :5], batch[:, None, :, :, :9].expand(-1, 5, -1, -1, -1))
    for crop in (single_crop, ten_crops):
        with pytest.raises(ValueError, match="a crop of 10 pixels does not fit into 9 x 12"):
            crop(batch, 10)


def test_crops_are_averaged_as_probabilities_or_logits():
    logits = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)
    plain = [1 / (1 + math.exp(-x)) for x in (0.0, 4.0)]
    assert average_crops(logits)[0, 0].item() == pytest.approx(sum(plain) / 2)
    of_logits = average_crops(logits, averaged="logits")[0, 0].item()
    assert of_logits == pytest.approx(1 / (1 + math.exp(-2.0)))
    one = logits[:, :1]
    torch.testing.assert_close(average_crops(one), average_crops(one, averaged="logits"))
    rows = average_crops(torch.randn(5, 10, 7).bfloat16())
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("num_crops", [1, 10])
def test_classifying_is_the_mean_over_crops_one_at_a_time(num_crops):
    model = Classifier(build_encoder("resnet18"), 4).eval()
    batch = torch.randn(3, 3, 40, 48)
    found = classify(model, batch, 32, num_crops=num_crops)
    crops = ten_crop(batch, [32, 32]) if num_crops == 10 else [center_crop(batch, [32, 32])]
    with torch.no_grad():
        expected = torch.stack([model(crop).softmax(1) for crop in crops]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_top_classes_are_stable_and_no_more_than_there_are():
    probabilities = torch.tensor([[0.1, 0.3, 0.3, 0.2, 0.1], [0.2] * 5])
    index, value = top_classes(probabilities, 3)
    assert index.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert torch.equal(value, probabilities.gather(1, index))
    assert top_classes(probabilities, 9)[0].shape == (2, 5)
    broken = torch.tensor([[0.5, math.nan, 0.5]])
    assert top_classes(broken)[1][0, 0].isnan()


def test_normalisation_of_a_classifier_with_its_own_mean():
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8))
    found = encoders.normalise(batch, (0.5,) * 3, (0.25,) * 3)
    expected = (batch.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    assert not torch.equal(found, encoders.normalise(batch))


@pytest.mark.parametrize("size", [(60, 90), (90, 61), (33, 200), (40, 40), (20, 31)])
def test_middle_square_is_torchvisions_resize_and_crop(size):
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 / width, y * 255 / height, 128 + 0 * x], axis=2).astype(np.uint8)
    found = images.resize_middle(image, 32)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = center_crop(resize(tensor, [32], antialias=True), [32, 32]).permute(1, 2, 0)
    assert found.shape == (32, 32, 3)
    assert np.abs(found.astype(float) - expected.numpy()).max() < 6  # the filters differ


def test_logits_of_a_model_that_is_not_a_classifier_of_ours_are_enough():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = torch.zeros(1, 3, 8, 8)
    batch[:, 1] = 5.0
    assert top_classes(classify(model, batch, 6))[0].tolist()[0][0] == 1
