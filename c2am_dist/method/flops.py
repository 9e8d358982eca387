"""How large a model is on paper: counted on shapes alone, without computing anything."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import Encoder, build_encoder
from c2am_dist.method.sipe_model import SipeClassifier


class Footprint(NamedTuple):
    """What an image costs in a model, and what the model itself weighs."""

    flops: int
    """Of a forward pass on one image, in training."""
    num_parameters: int
    num_features: int
    """Channels of the encoder's features, and so of a C2AM representation."""


@functools.cache
def footprint(encoder: str, size_px: int) -> Footprint:
    """The footprint of C2AM with an encoder, on images of ``size_px`` a side."""
    return footprint_of(lambda: C2AM(build_encoder(encoder)), size_px)


def footprint_of(build: Callable[[], nn.Module], size_px: int) -> Footprint:
    """The footprint of a model that has an attribute ``encoder``."""
    with torch.device("meta"):
        model = build().to("meta")
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    return Footprint(
        flops=forward_flops(model, size_px),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_features=encoder.num_features,
    )


def forward_flops(model: nn.Module, size_px: int) -> int:
    """Floating-point operations of a forward pass on one image.

    Multiplications and additions count as one each, where papers often count the pair. Only
    convolutions and matrix products are counted, which is nearly all there is.

    Args:
        model: on the meta device, where tensors have a shape and no values.
        size_px: side of the image.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # Two images: BatchNorm in training refuses one of which a single cell is left.
        images = torch.empty(2, 3, size_px, size_px, device="meta")
        if isinstance(model, SipeClassifier):
            num_classes = model.classifier.out_channels
            labels = torch.empty(2, num_classes, dtype=torch.int8, device="meta")
            model(images, labels, check=False)  # no value is there to look at
        else:
            model(images)
    return counter.get_total_flops() // 2
