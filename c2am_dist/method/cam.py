"""Class activation maps: what a classifier's last layer sees where.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016). The bias of
the last layer is the same everywhere and left out. What other methods of this package do with
such maps starts from the functions here.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from c2am_dist.method.activation import normalise
from c2am_dist.method.vectors import unmixed


class ClassActivation(NamedTuple):
    """What :func:`class_activation_maps` finds in a batch."""

    logits: Float[Tensor, "n k"]
    """Those of the classifier."""
    class_index: Int[Tensor, " n"]
    """The class each map belongs to."""
    activation: Float[Tensor, "n 1 h w"]
    """Min-max normalised per image to [0, 1], float32 at least."""


def class_activation(
    features: Float[Tensor, "n c h w"], weight: Float[Tensor, "k c"]
) -> Float[Tensor, "n k h w"]:
    """The map of every class, sum_c w_kc Z_c, of any sign; float32 at least.

    Args:
        features: the last stage's, the ones that are averaged and classified.
        weight: of the linear layer, a row a class.
    """
    return _product("nchw,kc->nkhw", features, weight)


def class_activation_of(
    features: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "k c"],
    class_index: Int[Tensor, " n"],
) -> Float[Tensor, "n 1 h w"]:
    """The map of one class per image; otherwise as :func:`class_activation`.

    Raises:
        ValueError: an index is no class.
    """
    check_classes(class_index, len(weight))
    return _product("nchw,nc->nhw", features, weight[class_index])[:, None]


def class_activation_maps(
    features: Float[Tensor, "n c h w"],
    fc: nn.Linear,
    class_index: Int[Tensor, " n"] | None = None,
) -> ClassActivation:
    """Logits, and the normalised map of one class per image.

    A constant map becomes zeros. An image whose features hold NaN or infinity has a map of NaN,
    for the caller to report.

    Args:
        features: the classifier's last stage, in evaluation mode.
        fc: its linear layer.
        class_index: the class to show, such as the true label; the predicted one if None (of
            equals the first).

    Raises:
        ValueError: an index is no class.
    """
    logits = fc(features.mean(dim=(2, 3)))
    shown = logits.argmax(dim=1) if class_index is None else class_index
    activation = class_activation_of(features, fc.weight, shown)
    return ClassActivation(logits, shown, normalise(activation))


def check_classes(class_index: Int[Tensor, " n"], num_classes: int) -> None:
    """Refuses class indices outside 0 to ``num_classes`` - 1.

    Raises:
        ValueError: naming the first one.
    """
    strays = class_index[(class_index < 0) | (class_index >= num_classes)]
    if len(strays):
        raise ValueError(f"class {strays[0].item()} is not one of {num_classes}")


def _product(
    equation: str, features: Float[Tensor, "n c h w"], weight: Float[Tensor, "k c"]
) -> Float[Tensor, "..."]:
    """The einsum in float32 at least, also under autocast: a map of bfloat16 has 256 levels."""
    common = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    with unmixed(features.device):
        return torch.einsum(equation, features.to(common), weight.to(common))
