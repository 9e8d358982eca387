"""The convolutional stages of torchvision's networks at a chosen output stride.

A stride is lowered by taking later steps one cell at a time, without dilation: every parameter
keeps its name, shape and meaning, and published checkpoints load unchanged.
"""

from typing import NamedTuple

import torch
import torchvision
from torch import nn

RESNETS = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
}
OUTPUT_STRIDES = (8, 16, 32)
"""32 is torchvision's own, 16 C2AM's, 8 that of Bridging the Gap (28 x 28 cells at 224)."""


class Stages(NamedTuple):
    """What an encoder is made of."""

    modules: dict[str, nn.Module]
    """In the order they run; the names prefix the parameters' names."""
    outputs: dict[str, int]
    """Channels of each stage that goes into the features, the last stage first."""


def resnet_stages(name: str, output_stride: int) -> Stages:
    """A ResNet's; features are layer4 and, where it has as many cells (not at 32), layer3."""
    resnet = RESNETS[name]()
    unstrided = {8: (resnet.layer3, resnet.layer4), 16: (resnet.layer4,), 32: ()}[output_stride]
    for stage in unstrided:
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
    modules = {key: child for key, child in resnet.named_children() if key not in ("avgpool", "fc")}
    num_last = resnet.fc.in_features
    outputs = {"layer4": num_last, "layer3": num_last // 2}
    if output_stride == 32:
        del outputs["layer3"]
    return Stages(modules, outputs)


def vgg16_stages(output_stride: int) -> Stages:
    """VGG-16's five convolution blocks: at 32 with all poolings, at 16 and 8 without the last."""
    with torch.device("meta"):  # the 124 million parameters of its classifier go unused
        layers = list(torchvision.models.vgg16().features.children())
    if output_stride < 32:
        layers = layers[:-1]
    if output_stride == 8:
        layers[23] = nn.Identity()  # the fourth pooling; parameters are named by position
    features = nn.Sequential(*layers).to_empty(device="cpu")
    for module in features.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision does
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return Stages({"features": features}, {"features": 512})


def densenet161_stages(output_stride: int) -> Stages:
    """DenseNet-161's features and the ReLU that torchvision applies to them.

    At 16 the last transition does not pool, at 8 the last two do not: cells keep the values
    that would be averaged.
    """
    densenet = torchvision.models.densenet161()
    unpooled = {8: ("transition2", "transition3"), 16: ("transition3",), 32: ()}[output_stride]
    for name in unpooled:
        densenet.features.get_submodule(name).add_module("pool", nn.Identity())
    num_last = densenet.classifier.in_features
    return Stages(
        {"features": densenet.features, "relu": nn.ReLU(inplace=True)}, {"relu": num_last}
    )
