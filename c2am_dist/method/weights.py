"""Published weights into models: layouts understood, every key filled or the file refused."""

import argparse
import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn


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


# What torchvision calls the layer over pooled features: ResNets and DenseNets.
_LINEAR_LAYERS = ("fc", "classifier")
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


def linear_layer(state_dict: Mapping[str, Any], num_features: int) -> tuple[Tensor, Tensor] | None:
    """Weight (k c) and bias (k) of the layer that classifies an encoder's pooled features, if any.

    Args:
        state_dict: a checkpoint's; nesting and prefixes are understood as by `load_weights`.
        num_features: c, of the encoder's last stage; VGG-16's own layers take another number.
    """
    state = strip_wrappers(state_dict)
    for name in _LINEAR_LAYERS:
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if isinstance(weight, Tensor) and isinstance(bias, Tensor):
            if weight.ndim == 2 and weight.shape[1] == num_features and len(bias) == len(weight):
                return weight.float(), bias.float()
    return None


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
