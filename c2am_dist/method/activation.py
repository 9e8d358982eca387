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
    """Each map stretched to [0, 1]; a constant map becomes zeros."""
    low = activation.amin(dim=(2, 3), keepdim=True)
    spread = activation.amax(dim=(2, 3), keepdim=True) - low
    return torch.where(spread > 0, (activation - low) / spread, 0)


def merge_scales(
    activations: Sequence[Float[Tensor, "n 1 _ _"]], size: tuple[int, int]
) -> Float[Tensor, "n 1 h w"]:
    """The sum of foreground maps taken at several scales, divided by its maximum per image.

    Args:
        activations: oriented maps in [0, 1], one for each scale and mirroring; a mirrored
            image's map comes flipped back.
        size: (height, width) of the result; maps are resized to it bilinearly.

    Returns:
        Maps in [0, 1]; an image whose maps are all zero keeps zeros.

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
    return torch.where(peak > 0, total / peak, 0)
