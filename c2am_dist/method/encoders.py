"""Encoders: feature maps at stride 16 from torchvision's ResNets, VGG-16 and DenseNet-161.

Parameter names are torchvision's own, so that published checkpoints load unchanged, whatever
prefix their authors' wrappers left on the keys (weights.py).
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from c2am_dist.method.stages import (
    OUTPUT_STRIDES,
    RESNETS,
    densenet161_stages,
    resnet_stages,
    vgg16_stages,
)

# Red, green, blue of ImageNet; every torchvision, MoCo, DetCo and DINO encoder expects them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""The BatchNorm modules an encoder may hold, before and after conversion for workers."""


def normalise(
    batch: UInt8[Tensor, "n h w 3"],
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Float[Tensor, "n 3 h w"]:
    """The network input: float32, ImageNet mean 0 and deviation 1, on the batch's device.

    The result is channels-last in memory, as the batch is, so no pixel is moved: one kernel
    converts, scales and shifts. Classifiers from elsewhere may have another mean and deviation.
    """
    scale, shift = _scale_and_shift(batch.device, mean, std)
    return torch.addcmul(shift, batch.permute(0, 3, 1, 2), scale)


@functools.cache
def _scale_and_shift(
    device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Factors of x/255 and (x - mean)/std as one multiplication and addition, 1 3 1 1."""
    centre = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(std, device=device).view(1, 3, 1, 1)
    return 1 / (255 * deviation), -centre / deviation


class Encoder(nn.Module):
    """A chain of named stages whose outputs at one stride are concatenated on channels.

    Attributes:
        num_features: channels of the output.
        num_last_features: how many of them, the first ones, are the last stage's.
        is_norm_frozen: see :func:`freeze_norm`.

    Args:
        stages: in the order they run; the names prefix the parameters' names.
        outputs: channels of each stage that goes into the output, the last stage first.
    """

    def __init__(self, stages: Mapping[str, nn.Module], outputs: Mapping[str, int]) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self._outputs = tuple(outputs)
        self.num_features = sum(outputs.values())
        self.num_last_features = outputs[self._outputs[0]]
        self.is_norm_frozen = False

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c h w"]:
        """Features of RGB images normalised by ImageNet's mean and deviation, >= 0.

        Sizes that the stride does not divide are rounded up by the ResNets, down by VGG-16, and
        by DenseNet-161 up to stride 4, then down.
        """
        taken: dict[str, Tensor] = {}
        x = images
        for name, stage in self.named_children():
            x = stage(x)
            if name in self._outputs:
                taken[name] = x
        if len(taken) == 1:
            return x
        return torch.cat([taken[name] for name in self._outputs], dim=1)

    def last_stage(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """The last stage's part of the features (layer4 of a ResNet), the classifier's input."""
        return features[:, : self.num_last_features]

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        if self.is_norm_frozen:
            for module in self.modules():
                if isinstance(module, NORMS):
                    module.train(False)
        return self


def freeze_norm(encoder: Encoder) -> None:
    """Makes BatchNorm use its stored statistics from now on, also in training mode.

    They are not updated either. Weight and bias still train unless their parameters are frozen
    (see optim.parameter_groups).
    """
    encoder.is_norm_frozen = True
    encoder.train(encoder.training)


@contextlib.contextmanager
def running_statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, BatchNorm normalises batches by themselves and they leave no trace: momentum is 0."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, NORMS)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            # A counter to be thrown away: SyncBatchNorm insists on having one.
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=norm.weight.device)
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def build_encoder(name: str, *, output_stride: int = 16) -> Encoder:
    """An encoder with random weights, by torchvision's name.

    At stride 16 a ResNet's last stage runs at stride 1, without dilation, and its features are
    those of layer4 followed by those of layer3: 768 channels for ResNet-18 and 34, 3072 for 50
    and 101. VGG-16 gives its last convolution block before the final pooling: 512 channels;
    DenseNet-161 its last block's, after BatchNorm and ReLU: 2208.

    Args:
        name: see EncoderName in the config.
        output_stride: pixels a cell spans. 8 runs one stage more at stride 1; 32 is
            torchvision's network as it is, of which a ResNet gives layer4 alone.

    Raises:
        ValueError: the name or the stride is unknown.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    if name in RESNETS:
        return Encoder(*resnet_stages(name, output_stride))
    if name == "vgg16":
        return Encoder(*vgg16_stages(output_stride))
    if name == "densenet161":
        return Encoder(*densenet161_stages(output_stride))
    raise ValueError(f"encoder must be {', '.join(RESNETS)}, vgg16 or densenet161, got {name!r}")
