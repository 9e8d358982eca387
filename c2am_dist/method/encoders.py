"""Encoders: feature maps at stride 16 from torchvision's ResNets, VGG-16 and DenseNet-161.

Parameter names are torchvision's own, so that published checkpoints load unchanged, whatever
prefix their authors' wrappers left on the keys. A file that does not fill every key is refused.
"""

import argparse
import functools
import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torchvision
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


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not fit the encoder."""


class LoadReport(NamedTuple):
    """What :func:`load_weights` did with each key, sorted; prefixes are stripped."""

    matched: tuple[str, ...]
    """Encoder keys filled from the checkpoint."""
    missing: tuple[str, ...]
    """Encoder keys it lacks: at most BatchNorm's counters, which start at 0."""
    unexpected: tuple[str, ...]
    """Keys of the checkpoint that the encoder does not have, such as a classifier's."""


# What wrappers put around a state dict (the teacher is what DINO's authors evaluate) ...
_NESTS = ("state_dict", "model", "teacher", "student")
# ... and in front of its keys. MoCo's encoder_q is the trained one; encoder_k, its average,
# matches no prefix and so is left alone.
_PREFIX = re.compile(r"^(?:module\.|encoder_q\.|backbone\.|encoder\.|model\.)+")
# DenseNets of torchvision's own files are older than its code: norm.1 is now norm1.
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def read_state_dict(data: bytes, source: str) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU: tensors and plain values, no code.

    PyTorch's restricted unpickler builds nothing else. What unpacks to more than the file's size
    is refused: PyTorch stores its tensors as they are, but unpacks what others have compressed.

    Args:
        data: the file's bytes.
        source: its name, for errors.

    Raises:
        WeightsError: not a readable PyTorch checkpoint, or not a dict.
    """
    try:
        if data.startswith(b"PK\x03\x04"):
            packed = zipfile.ZipFile(io.BytesIO(data)).infolist()
            if sum(entry.file_size for entry in packed) > len(data):
                raise ValueError("it unpacks to more than its size")
        # DINO's training checkpoints hold their command line, an inert bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever broken bytes lead it into
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{source}: not a readable PyTorch checkpoint ({reason})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source}: holds a {type(content).__name__}, not a state dict")
    return dict(content)


def load_weights(
    encoder: nn.Module, state_dict: Mapping[str, Any], *, kind: str = "encoder"
) -> LoadReport:
    """Fills every key of the encoder from a checkpoint's state dict, or changes nothing.

    Understands torchvision, MoCo v1 and v2, DetCo and DINO checkpoints and this project's own:
    nesting and key prefixes are stripped. Any floating-point type is accepted.

    Args:
        encoder: the encoder, or another model whose every key is to be filled.
        state_dict: the checkpoint's.
        kind: what errors call it.

    Raises:
        WeightsError: a key is missing, ambiguous, of another shape or not finite; the message
            names the first few.
    """
    expected = encoder.state_dict()
    # A model's own keys may begin like a wrapper's: ViT's do with "encoder.".
    own = {bare_key(key): key for key in expected}
    found = {own.get(key, key): value for key, value in strip_wrappers(state_dict).items()}
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    problems = [
        problem
        for key, tensor in expected.items()
        if key not in counters and (problem := _problem(key, tensor, found.get(key)))
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{len(problems)} of {len(expected) - len(counters)} {kind} keys cannot be filled: "
            f"{', '.join(problems[:3])}{more}"
        )
    missing = {key for key in counters if not isinstance(found.get(key), Tensor)}
    filled = {key: torch.zeros_like(expected[key]) for key in missing}
    encoder.load_state_dict(filled | {key: found[key] for key in expected.keys() - missing})
    return LoadReport(
        matched=tuple(sorted(expected.keys() - missing)),
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(found.keys() - expected.keys())),
    )


def bare_key(key: str) -> str:
    """A checkpoint's key without a wrapper's prefix, spelled as torchvision's code does."""
    return _OLD_DENSE_LAYER.sub(r"\1\2", _PREFIX.sub("", key))


def strip_wrappers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The innermost state dict with prefixes removed from its keys.

    Raises:
        WeightsError: two keys become one.
    """
    nest = next((key for key in _NESTS if isinstance(state_dict.get(key), Mapping)), None)
    if nest is not None:
        return strip_wrappers(state_dict[nest])
    found: dict[str, Any] = {}
    for key, value in state_dict.items():
        stripped = bare_key(key)
        if stripped in found:
            raise WeightsError(f"two keys of the checkpoint stand for {stripped!r}, e.g. {key!r}")
        found[stripped] = value
    return found


def _problem(key: str, expected: Tensor, found: Any) -> str | None:
    """Why a checkpoint's value cannot fill a key, naming it; None if it can."""
    if not isinstance(found, Tensor):
        return f"{key} is missing"
    if found.shape != expected.shape:
        return f"{key} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point():
        return f"{key} holds {found.dtype}"
    if not torch.isfinite(found).all():
        return f"{key} is not finite"
    return None


def is_weights_name(text: str) -> bool:
    """Whether a text looks like a torchvision weights name rather than a path or URI.

    ``IMAGENET1K_V2`` and ``ResNet50_Weights.IMAGENET1K_V2`` do; ``r50.pth`` and ``none`` do not.
    """
    return re.fullmatch(r"(?:\w+_Weights\.)?[A-Z][A-Z0-9_]*", text) is not None


def torchvision_state_dict(encoder_name: str, weights_name: str) -> dict[str, Any]:
    """The weights torchvision publishes for an encoder, from its cache or downloaded and verified.

    Args:
        encoder_name: see :func:`build_encoder`.
        weights_name: ``IMAGENET1K_V2`` or ``ResNet50_Weights.IMAGENET1K_V2``.

    Raises:
        WeightsError: no such weights for this encoder (the message lists those there are), or
            they could not be fetched.
    """
    weights_class = torchvision.models.get_model_weights(encoder_name)
    # VGG-16's IMAGENET1K_FEATURES expects inputs in another range than every other encoder.
    names = [w.name for w in weights_class if w.name != "IMAGENET1K_FEATURES"]
    family, _, name = weights_name.rpartition(".")
    if family not in ("", weights_class.__name__) or name not in [*names, "DEFAULT"]:
        raise WeightsError(
            f"{encoder_name} has no torchvision weights {weights_name!r}; "
            f"there are {', '.join([*names, 'DEFAULT'])}"
        )
    try:
        return dict(
            weights_class[name].get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
        )
    except Exception as error:  # no network, or a broken file in the cache: see above
        raise WeightsError(
            f"{encoder_name} weights {weights_name}: could not be fetched ({error})"
        ) from error
