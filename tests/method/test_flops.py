import pytest
import torch
import torchvision

from c2am_dist.method.flops import footprint, forward_flops


def test_a_torchvision_resnet_has_its_published_count():
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    assert forward_flops(model, 224) == pytest.approx(2 * 4.09e9, rel=0.002)  # torchvision's GMAC


def test_the_last_stage_at_stride_1_costs_four_times_what_it_does_at_stride_2():
    """By hand: all convolutions of layer4 but the first run on 14 x 14 cells instead of 7 x 7."""
    with torch.device("meta"):
        published = forward_flops(torchvision.models.resnet50(), 224)
    block = 512 * 512 * 9 + 512 * 2048  # the 3x3 and the widening 1x1 convolution
    per_cell = 3 * block + 1024 * 2048 + 2 * 2048 * 512  # shortcut; the later blocks' first
    grown = 2 * per_cell * (14 * 14 - 7 * 7)
    head = 2 * 3072 * 9 * 14 * 14 + 2 * 2 * 3072 * 14 * 14  # convolution; sums over cells
    classifier = 2 * 2048 * 1000
    assert footprint("resnet50", 224).flops == published + grown + head - classifier


@pytest.mark.parametrize(
    "encoder", ["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "densenet161"]
)
def test_a_square_twice_as_large_costs_four_times_as_much(encoder: str):
    assert footprint(encoder, 256).flops == 4 * footprint(encoder, 128).flops
