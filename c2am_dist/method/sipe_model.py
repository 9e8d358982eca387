"""SIPE's network: an encoder, a classifier of every cell, a side convolution on each stage."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from c2am_dist.method.activation import merge_scales
from c2am_dist.method.cam import class_activation
from c2am_dist.method.encoders import Encoder
from c2am_dist.method.multilabel import valid_channels
from c2am_dist.method.sipe import (
    CHUNK_BYTES,
    SipeOutput,
    general_activation,
    image_prototypes,
    locate_seeds,
    specific_activation,
    structure_scores,
)
from c2am_dist.method.vectors import directions

SCALES = (1.0, 0.5, 1.5, 2.0)
"""Of the images that :func:`merged_maps` is published with. Source: METHODS.md, "SIPE"."""
SIDE_CHANNELS = {"layer1": 128, "layer2": 128, "layer3": 256, "layer4": 256}
"""Of each stage in the hierarchical feature. Source: METHODS.md, "SIPE"."""

_FROZEN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
"""What runs before the published code cuts the gradient."""


class SipeClassifier(nn.Module):
    """Encoder; 1 x 1 classifier without bias on layer4, then averaged; side convolutions.

    Nothing up to layer2 is trained: of the published network conv1 and bn1 are frozen and
    layer2's output is detached, so that no gradient arrives there. Here those parameters require
    none, and no activations are kept for it. Side convolutions see their stages detached.

    Args:
        encoder: a ResNet whose layer3 and layer4 have as many cells, ``build_encoder`` at
            output stride 16 (published) or 8; its parameters up to layer2 are frozen for good.
        num_classes: K, >= 1, without the background.
        chunk_bytes: see sipe.structure_scores.

    Raises:
        ValueError: there is no class, or the encoder is another.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        stages = [name for name, _ in encoder.named_children()]
        if stages != [*_FROZEN, "layer3", "layer4"]:
            raise ValueError(f"SIPE needs a ResNet, got an encoder of {', '.join(stages)}")
        if encoder.num_features == encoder.num_last_features:
            raise ValueError("SIPE needs a ResNet at output stride 16 or 8, got 32")
        self.encoder = encoder
        for name in _FROZEN:
            encoder.get_submodule(name).requires_grad_(False)
        self.classifier = nn.Conv2d(encoder.num_last_features, num_classes, 1, bias=False)
        # A ResNet's stages double their channels.
        num_features = [encoder.num_last_features // divisor for divisor in (8, 4, 2, 1)]
        self.sides = nn.ModuleDict(
            {
                stage: nn.Conv2d(num_in, num_out, 1, bias=False)
                for num_in, (stage, num_out) in zip(
                    num_features, SIDE_CHANNELS.items(), strict=True
                )
            }
        )
        self.chunk_bytes = chunk_bytes
        self.train(self.training)

    def forward(
        self,
        images: Float[Tensor, "n 3 height width"],
        labels: Int[Tensor, "_ _"],
        *,
        check: bool = True,
    ) -> SipeOutput:
        """Logits, general and image-specific maps of normalised images at layer4's size.

        The same in training and evaluation, but for BatchNorm.

        Args:
            images: a batch.
            labels: n K, 1, 0 or -1 (see multilabel): which classes an image may have seeds of;
                of one without any, maps show the background alone.
            check: whether to look at the values of labels and features, which waits for the
                device. In training a loss of NaN tells as much.

        Raises:
            ValueError: labels are of other images or classes, or one of them is not 1, 0 or -1,
                or features are NaN or infinite.
        """
        expected = (len(images), self.classifier.out_channels)
        if labels.shape != expected:
            raise ValueError(f"labels must be of shape {expected}, got {tuple(labels.shape)}")
        is_valid = valid_channels(labels, check=check)
        stages = self._run_stages(images)
        # Not the convolution itself: under autocast its map would be bfloat16.
        maps = class_activation(stages["layer4"], self.classifier.weight.flatten(1))
        activation = general_activation(maps, is_valid, check=check)
        scores = structure_scores(
            stages["layer4"], activation, chunk_bytes=self.chunk_bytes, check=check
        )
        seeds = locate_seeds(scores, is_valid)
        features = self._hierarchical(stages)
        prototypes = image_prototypes(features, seeds, check=check)
        specific = specific_activation(features, prototypes)
        return SipeOutput(maps.mean(dim=(2, 3)), activation, specific, seeds)

    def logits(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n k"]:
        """What forward gives of normalised images, without maps, seeds and so labels."""
        features = self._run_stages(images)["layer4"]
        return class_activation(features, self.classifier.weight.flatten(1)).mean(dim=(2, 3))

    def train(self, mode: bool = True) -> "SipeClassifier":
        super().train(mode)
        # Deviation: in the published network BatchNorm uses its stored statistics everywhere.
        # Here it does up to layer2, where nothing could adapt to others; for what is trained
        # the caller decides (encoders.freeze_norm).
        for name in _FROZEN:
            self.encoder.get_submodule(name).train(False)
        return self

    def _run_stages(self, images: Float[Tensor, "n 3 height width"]) -> dict[str, Tensor]:
        """What the side convolutions see, by stage."""
        outputs: dict[str, Tensor] = {}
        x = images
        for name, stage in self.encoder.named_children():
            x = stage(x)
            if name in SIDE_CHANNELS:
                outputs[name] = x
        return outputs

    def _hierarchical(self, stages: dict[str, Tensor]) -> Float[Tensor, "n d h w"]:
        """Each stage through its side convolution, at length one, at layer3's size, together."""
        size = stages["layer3"].shape[2:]
        # Published is a division by (length + 1e-5); a zero feature stays zero here as well.
        parts = [directions(side(stages[name].detach())) for name, side in self.sides.items()]
        # As published, without low-pass filter where cells become fewer.
        return torch.cat(
            [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts],
            dim=1,
        )


class SipeMaps(NamedTuple):
    """The maps of a batch, n m h w in [0, 1], the background's first; 0 where not valid."""

    activation: Float[Tensor, "n m h w"]
    """General: of the background and each class."""
    specific: Float[Tensor, "n m h w"]
    """Image-specific, which is what SIPE labels by."""


@torch.no_grad()
def merged_maps(
    model: SipeClassifier,
    scaled: Iterable[Float[Tensor, "n 3 _ _"]],
    labels: Int[Tensor, "_ _"],
    *,
    size: tuple[int, int],
    flip: bool = True,
) -> SipeMaps:
    """General and image-specific maps over scales: summed, each divided by its maximum.

    Deviation: in the published inference an image and its mirror image share their logits and
    hierarchical features, summed; the class activation map is not masked and the structure is
    that of the hierarchical features. Here each view goes through what is trained, as the paper
    describes it. The effect has not been measured.

    Args:
        model: in evaluation mode.
        scaled: the same images at each of ``SCALES``, or others; one batch is held at a time.
        labels: n K.
        size: (height, width) of the result.
        flip: also run each mirrored.

    Raises:
        ValueError: there is no scale, or see SipeClassifier.forward.
    """
    general: list[Tensor] = []
    specific: list[Tensor] = []
    for images in scaled:
        for is_mirrored in (False, True) if flip else (False,):
            output = model(images.flip(3) if is_mirrored else images, labels)
            for found, maps in ((general, output.activation), (specific, output.specific)):
                found.append(maps.flip(3) if is_mirrored else maps)
    return SipeMaps(_merged(general, size), _merged(specific, size))


def _merged(
    found: Sequence[Float[Tensor, "n m _ _"]], size: tuple[int, int]
) -> Float[Tensor, "n m h w"]:
    """As activation.merge_scales, of each channel by itself."""
    merged = merge_scales([maps.flatten(0, 1)[:, None] for maps in found], size)
    return merged[:, 0].unflatten(0, found[0].shape[:2])
