"""Activation maps: what they highlight, whether they are any good, how scales are merged.

The raw map P of a model may light up the background. Everything after :func:`orient` means
foreground when it says activation map.
"""

import enum
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class Polarity(enum.StrEnum):
    """What a model's raw map P highlights."""

    FOREGROUND = "foreground"
    BACKGROUND = "background"


def border_votes(activation: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, " n"]:
    """Whether each raw map lights up the background, judged by its border.

    The map is binarised at 0.5; more than half of the border lit, on average over the four
    sides (corners count for two), is a vote for background. Source: METHODS.md, "Polarity".
    """
    lit = (activation[:, 0] > 0.5).to(torch.float64)
    sides = (lit[:, 0], lit[:, -1], lit[:, :, 0], lit[:, :, -1])
    return torch.stack([side.mean(dim=1) for side in sides]).mean(dim=0) > 0.5


def vote(num_background: int, num_total: int) -> tuple[Polarity, float]:
    """The polarity most maps vote for, and the margin: their share beyond one half, [0, 0.5].

    A tie is a vote for foreground with margin 0.

    Raises:
        ValueError: there is no vote, or more for the background than there are.
    """
    if not 0 <= num_background <= num_total or num_total == 0:
        raise ValueError(f"cannot vote with {num_background} of {num_total} for background")
    share = num_background / num_total
    return (Polarity.BACKGROUND if share > 0.5 else Polarity.FOREGROUND), abs(share - 0.5)


def orient(activation: Float[Tensor, "*shape"], polarity: Polarity) -> Float[Tensor, "*shape"]:
    """The foreground's activation map: P itself, or 1 - P where P highlights the background."""
    return activation if polarity is Polarity.FOREGROUND else 1 - activation


def normalise(activation: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Each map stretched to [0, 1]; a constant map becomes zeros, with zero gradient.

    A map that holds NaN or infinity holds NaN afterwards, so that it is not mistaken for one
    that shows nothing.
    """
    low = activation.amin(dim=(2, 3), keepdim=True)
    spread = activation.amax(dim=(2, 3), keepdim=True) - low
    # Not torch.where over the quotient: 0/0 would pass NaN to the gradient all the same.
    return (activation - low) / torch.where(spread == 0, torch.inf, spread)


def merge_scales(
    activations: Sequence[Float[Tensor, "n 1 _ _"]], size: tuple[int, int]
) -> Float[Tensor, "n 1 h w"]:
    """The sum of foreground maps taken at several scales, divided by its maximum per image.

    Args:
        activations: oriented maps in [0, 1], one for each scale and mirroring; a mirrored
            image's map comes flipped back.
        size: (height, width) of the result; maps are resized to it bilinearly.

    Returns:
        Maps in [0, 1]; an image whose maps are all zero keeps zeros, and one of whose maps is
        NaN anywhere is NaN.

    Raises:
        ValueError: there is no map.
    """
    if not activations:
        raise ValueError("merge_scales needs at least one map")
    resized = [
        F.interpolate(a, size=size, mode="bilinear", align_corners=False) for a in activations
    ]
    total = torch.stack(resized).sum(dim=0)
    peak = total.amax(dim=(2, 3), keepdim=True)
    return torch.where(peak == 0, 0, total / peak)


COLLAPSED_STD = 0.01
"""Below this standard deviation within maps, P is constant. Working heads, random ones
included, measured 0.16 to 0.23; 0.01 is 3 grey levels of 256."""


def is_collapsed(activation: Float[Tensor, "n 1 h w"]) -> bool:
    """Whether maps say nothing about where: each nearly constant over its cells.

    The mean over images of the standard deviation within a map is below COLLAPSED_STD, whatever
    the level. True for maps of one cell. NaN is not collapsed; the loss shows it.
    """
    return activation.float().std(dim=(2, 3), correction=0).mean().item() < COLLAPSED_STD


LOCKED_SHARE = 0.9
"""Above this :func:`border_lock`, maps follow the border. ResNet-18 on Tiny-ImageNet at 128 px:
0.96 to 1 from random weights at any step, 0.3 rising to 0.7 from pretrained ones."""


def shift_half(
    images_or_maps: Float[Tensor, "n c height width"], *, cell_px: int
) -> Float[Tensor, "n c height width"]:
    """Images rolled around by half their cells, both ways, so that the border becomes the middle.

    Args:
        images_or_maps: what to roll.
        cell_px: pixels a map cell spans: 16 for images, 1 for maps. Images whose sides it does
            not divide shift by slightly less than half.
    """
    height, width = images_or_maps.shape[2:]
    shifts = (height // cell_px // 2 * cell_px, width // cell_px // 2 * cell_px)
    return images_or_maps.roll(shifts, dims=(2, 3))


def border_lock(
    activation: Float[Tensor, "n 1 h w"], activation_of_shifted: Float[Tensor, "n 1 h w"]
) -> float:
    """How far maps stay in place when the content of the images moves, from 0 to 1.

    An encoder that sees its padding can light up a frame whatever the image; images of centred
    objects then look well labeled. Rolling the image around moves its content but not the
    padding. The map of the rolled image is explained, by least squares, as a share of the
    original map (what stayed in place) and a share of the rolled one (what followed the
    content); the result is the first share over both. The polarity does not matter.

    Args:
        activation: maps of images.
        activation_of_shifted: maps of the same images after ``shift_half(images, cell_px=16)``.

    Returns:
        0 when maps follow the content, 1 when they ignore it. 0 also for maps that neither
        explains, such as constant ones.
    """
    still = _centred(activation)
    moved = shift_half(still, cell_px=1)
    target = _centred(activation_of_shifted)
    power = (still * still).sum().item()
    overlap = (still * moved).sum().item()
    stays = (still * target).sum().item()
    follows = (moved * target).sum().item()
    # The normal equations of target = a still + b moved, without their common determinant.
    a = max(power * stays - overlap * follows, 0.0)
    b = max(power * follows - overlap * stays, 0.0)
    return a / (a + b) if a + b > 0 else 0.0


def _centred(activation: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    wide = activation.double()
    return wide - wide.mean(dim=(2, 3), keepdim=True)


THIN_MARGIN = 0.1
"""A polarity vote closer to even than this is uncertain."""


def doubts(polarity_margin: float, border_lock: float) -> list[str]:
    """What a person should know before trusting a model's maps; empty if nothing is wrong."""
    found = []
    if polarity_margin < THIN_MARGIN:
        found.append(
            f"polarity is uncertain: the vote's margin is {polarity_margin:.2f} of 0.5; "
            "look at some maps first"
        )
    if border_lock > LOCKED_SHARE:
        found.append(
            f"the maps are locked to the image border (border lock {border_lock:.2f}): "
            "they stay in place when the content of the images moves. Start from a pretrained "
            "encoder (model.weights)"
        )
    return found
