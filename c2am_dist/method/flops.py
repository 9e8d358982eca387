"""How large a model is on paper: counted on shapes alone, without computing anything."""

import functools
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder


class Footprint(NamedTuple):
    """What an image costs in a C2AM model, and what the model itself weighs."""

    flops: int
    """Of a forward pass on one image."""
    num_parameters: int
    num_features: int
    """Channels of a representation."""


@functools.cache
def footprint(encoder: str, size_px: int) -> Footprint:
    """The footprint of C2AM with an encoder, on images of ``size_px`` a side."""
    with torch.device("meta"):
        model = C2AM(build_encoder(encoder)).to("meta")
    return Footprint(
        flops=forward_flops(model, size_px),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_features=model.encoder.num_features,
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
        model(torch.empty(1, 3, size_px, size_px, device="meta"))
    return counter.get_total_flops()
