"""The classifier of Bridging the Gap: an encoder that runs its last stage twice in training."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from c2am_dist.method.bridging import BridgingConstants, BridgingOutput, attentive_dropout
from c2am_dist.method.encoders import Encoder, running_statistics_kept

_VGG16_SPLIT = 26
"""Layers up to the ReLU of the first convolution of VGG-16's last block."""


class BridgingClassifier(nn.Module):
    """Encoder, global average pooling over its last stage, and a linear layer.

    In training the last stage runs a second time from attentive dropout on, behind its first
    block. Parameters are those of Classifier: a torchvision ``fc`` fits, and class activation
    maps are made from ``features`` and ``fc`` as for any classifier.

    Args:
        encoder: a ResNet or VGG-16; published with ``build_encoder(..., output_stride=8)``.
        num_classes: >= 1.
        constants: threshold and rate of the dropout are used.

    Raises:
        ValueError: there is no class, or the encoder's last stage has no first block.
    """

    def __init__(self, encoder: Encoder, num_classes: int, constants: BridgingConstants) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        _halves(encoder)
        self.encoder = encoder
        self.fc = nn.Linear(encoder.num_last_features, num_classes)
        self.drop_threshold = constants.drop_threshold
        self.drop_rate = constants.drop_rate

    def forward(
        self,
        images: Float[Tensor, "n 3 height width"],
        draw: Callable[[int, int], Float[Tensor, "n 1 h w"]] | None = None,
    ) -> BridgingOutput:
        """Logits and features of normalised images, in training also features with dropout.

        Args:
            images: a batch.
            draw: gives the dropout's numbers in [0, 1) for maps of a height and width; torch's
                global generator does if None.
        """
        first, last = _halves(self.encoder)
        middle = _run(first, images)
        features = _run(last, middle)
        logits = self.fc(features.mean(dim=(2, 3)))
        if not self.training:
            return BridgingOutput(logits, features, features)
        erased = attentive_dropout(
            middle,
            threshold=self.drop_threshold,
            rate=self.drop_rate,
            draws=None if draw is None else draw(*middle.shape[2:]),
        )
        # Deviation: whether the published code's second pass enters BatchNorm's running
        # statistics is not known. Here it does not: inference sees no erased features.
        with running_statistics_kept(last):
            dropped = _run(last, erased)
        return BridgingOutput(logits, features, dropped)


def _halves(encoder: Encoder) -> tuple[list[nn.Module], list[nn.Module]]:
    """The encoder's modules up to the first block of its last stage, and those after it."""
    stages = dict(encoder.named_children())
    if "layer4" in stages:
        blocks = list(stages.pop("layer4").children())
        return [*stages.values(), blocks[0]], blocks[1:]
    layers = list(stages["features"].children()) if list(stages) == ["features"] else []
    if len(layers) not in (30, 31):
        raise ValueError("Bridging the Gap needs a ResNet or VGG-16")
    # Deviation: METHODS.md names layer4 alone; of VGG-16's blocks, a block is one convolution.
    return layers[:_VGG16_SPLIT], layers[_VGG16_SPLIT:]


def _run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x
