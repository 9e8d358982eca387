"""The background-cue predictor: a network that learns which pixels an object is on from cues.

A cue of one image is coarse and follows that image's features. A network trained on the cues of
all images cannot repeat the mistakes of each, and predicts smoother ones at a finer resolution
(arXiv:2203.13505, section 3.5 and figure 5).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from c2am_dist.method.encoders import Encoder
from c2am_dist.method.vectors import wide

WIDTH = 64
"""Channels of the decoder."""
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_STEM = ("conv1", "bn1", "relu", "maxpool")


class SaliencyNet(nn.Module):
    """Encoder, and a decoder that goes from its last stage up to its first: a U.

    A 1 x 1 convolution brings each stage to 64 channels. From the deepest on, what is there is
    enlarged to the next stage's size and added to it, then a 3 x 3 convolution, BatchNorm and ReLU.

    Args:
        encoder: a ResNet, at output stride 32, 16 or 8.

    Raises:
        ValueError: the encoder is another.
    """

    # Deviation: the published code trains PoolNet (Liu et al., CVPR 2019), whose pooling pyramid
    # and extra supervision of edges come with an implementation of its own. This is a feature
    # pyramid (Lin et al., CVPR 2017) on the encoders that are here. The effect has not been
    # measured.

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        stages = [name for name, _ in encoder.named_children()]
        if stages != [*_STEM, *_STAGES]:
            raise ValueError(f"saliency needs a ResNet, got an encoder of {', '.join(stages)}")
        self.encoder = encoder
        # A ResNet's stages double their channels.
        num_features = [encoder.num_last_features // divisor for divisor in (8, 4, 2, 1)]
        self.laterals = nn.ModuleDict(
            {name: nn.Conv2d(n, WIDTH, 1) for name, n in zip(_STAGES, num_features, strict=True)}
        )
        self.blocks = nn.ModuleDict({name: _block() for name in _STAGES})
        self.predict = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 1 h w"]:
        """Logits of the foreground at a quarter of the images' size: above 0 means an object."""
        stages: dict[str, Tensor] = {}
        x = images
        for name, stage in self.encoder.named_children():
            x = stages[name] = stage(x)
        found: Tensor | None = None
        for name in reversed(_STAGES):
            lateral = self.laterals[name](stages[name])
            if found is not None:
                lateral = lateral + _enlarge(found, lateral)
            found = self.blocks[name](lateral)
        return self.predict(found)


def saliency_loss(
    logits: Float[Tensor, "n 1 _ _"],
    target: Float[Tensor, "n 1 height width"],
    is_known: Bool[Tensor, "n 1 _ _"],
) -> Float[Tensor, " n"]:
    """The loss of each image, >= 0: mean binary cross entropy over its known pixels; 0 of none.

    Logits are enlarged to the target's size. Pixels that are not known get no gradient. float32
    at least.

    Args:
        logits: of the foreground, at any size.
        target: the foreground, 1 - background cue: soft, in [0, 1].
        is_known: of each pixel, or n 1 1 1, of each image.
    """
    is_known = is_known.expand_as(target)
    # Before the loss, not after it: an infinite logit would pass NaN.
    scores = torch.where(is_known, _enlarge(wide(logits), target), 0)
    losses = F.binary_cross_entropy_with_logits(scores, target.to(scores.dtype), reduction="none")
    num_known = is_known.sum(dim=(1, 2, 3))
    return (losses * is_known).sum(dim=(1, 2, 3)) / num_known.clamp(min=1)


def _block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(inplace=True),
    )


def _enlarge(maps: Float[Tensor, "n c _ _"], like: Tensor) -> Float[Tensor, "n c h w"]:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
