"""PSOL: a class-agnostic regressor of one box per image, trained on pseudo boxes.

Zhang et al., "Rethinking the Route Towards Weakly Supervised Object Localization" (CVPR 2020,
arXiv:2002.11359). Boxes here are relative: x y w h as shares of the network's input, x y the
upper left corner; views.py carries them between images and what the network sees of them.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from c2am_dist.method.encoders import Encoder

HIDDEN_FEATURES = 512
"""Width of the head (METHODS.md, "PSOL")."""
LOSS_WEIGHT = 50.0
"""Factor on the mean squared error (METHODS.md, "PSOL")."""


class BoxRegressor(nn.Module):
    """Encoder, global average pooling over its last stage, Linear 512, ReLU, Linear 4, sigmoid.

    The published regressors are ``build_encoder(name, output_stride=32)`` with ``resnet50``,
    ``densenet161`` and ``vgg16`` (VGG-GAP).
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(encoder.num_last_features, HIDDEN_FEATURES),
            nn.ReLU(),
            nn.Linear(HIDDEN_FEATURES, 4),
        )

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 4"]:
        """Relative boxes x y w h of normalised images, each in (0, 1), float32 at least.

        The right and lower edges x + w and y + h may exceed 1.
        """
        features = self.encoder.last_stage(self.encoder(images))
        logits = self.head(features.mean(dim=(2, 3)))
        # In bfloat16, half a pixel of 224 is the finest step.
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def box_losses(
    predicted: Float[Tensor, "n 4"],
    target: Float[Tensor, "n 4"],
    is_visible: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """Each image's loss: 50 times the mean squared error of its four numbers.

    The published loss is the mean over the batch: a worker sums its own images' and divides by
    its share of the batch.

    Args:
        predicted: relative boxes.
        target: relative pseudo boxes, in [0, 1].
        is_visible: whether the view shows the box at all; images without have loss 0. All do if
            None.
    """
    # Deviation: where the crop misses the box, the published code trains on what clipping
    # leaves, a box without area in a corner or side.
    losses = LOSS_WEIGHT * (predicted - target).square().mean(dim=1)
    return losses if is_visible is None else torch.where(is_visible, losses, 0)


def relative_iou(
    predicted: Float[Tensor, "n 4"], target: Float[Tensor, "n 4"]
) -> Float[Tensor, " n"]:
    """Intersection over union of relative boxes x y w h, in [0, 1]; 0 where either has no area.

    Both are cut at the view's border, as far as a target reaches.
    """
    low = torch.maximum(predicted[:, :2], target[:, :2])
    ends = [(box[:, :2] + box[:, 2:]).clamp(max=1) for box in (predicted, target)]
    sides = (torch.minimum(*ends) - low).clamp(min=0)
    areas = [
        (end - box[:, :2]).clamp(min=0).prod(1)
        for end, box in zip(ends, (predicted, target), strict=True)
    ]
    intersection = sides.prod(1)
    union = areas[0] + areas[1] - intersection
    return intersection / torch.where(union > 0, union, 1)
