"""Any of torchvision's classifiers by name, for inference: how it is built, fed and averaged.

These name an image's class for Top-1 and Top-5 Loc; maps are made from Classifier instead.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torchvision
from jaxtyping import Float, Int
from torch import Tensor, nn

from c2am_dist.method.weights import (
    LoadReport,
    WeightsError,
    bare_key,
    load_weights,
    strip_wrappers,
)

Averaged = Literal["probabilities", "logits"]

_IMAGENET_CLASSES = 1000

# Both were trained on inputs in another range, and rescale ImageNet's normalisation by
# themselves if told to; and warn of a slow initialisation unless told whether to do it.
_RESCALING = {
    "inception_v3": {"transform_input": True, "init_weights": False},
    "googlenet": {"transform_input": True, "init_weights": False},
}


class InputSpec(NamedTuple):
    """What a classifier expects to be fed."""

    resize_px: int
    """Shorter side of the image before cropping."""
    crop_px: int
    """Side of the square that is classified."""
    mean: tuple[float, ...]
    """Red, green and blue of pixels in [0, 1]."""
    std: tuple[float, ...]


class LoadedClassifier(NamedTuple):
    """A classifier with weights, in evaluation mode."""

    model: nn.Module
    """Normalised images to logits, n 3 h w to n k."""
    num_classes: int
    report: LoadReport


def classifier_names() -> list[str]:
    """The names of torchvision's classification models, sorted."""
    return torchvision.models.list_models(module=torchvision.models)


def input_spec(name: str, weights_name: str = "DEFAULT") -> InputSpec:
    """Input size and normalisation that a classifier's published weights were evaluated with.

    Args:
        name: one of :func:`classifier_names`.
        weights_name: ``IMAGENET1K_V1`` or another that torchvision publishes for it; weights of
            one's own are taken to be fed as the default ones.

    Raises:
        ValueError: the name is unknown.
        WeightsError: torchvision has no such weights.
    """
    _check_name(name)
    weights_class = torchvision.models.get_model_weights(name)
    member = weights_name.rpartition(".")[2]
    if member not in weights_class.__members__:
        raise WeightsError(
            f"{name} has no torchvision weights {weights_name!r}; "
            f"there are {', '.join(weights_class.__members__)}"
        )
    preset = weights_class[member].transforms()
    return InputSpec(
        preset.resize_size[0], preset.crop_size[0], tuple(preset.mean), tuple(preset.std)
    )


def load_classifier(name: str, state_dict: Mapping[str, Any]) -> LoadedClassifier:
    """A classifier filled from a checkpoint's state dict, or an error: every key is checked.

    The number of classes is that of the checkpoint's last layer. Nesting and prefixes are
    understood as by `load_weights`.

    Args:
        name: one of :func:`classifier_names`.
        state_dict: of `read_state_dict` or `torchvision_state_dict`.

    Raises:
        ValueError: the name is unknown.
        WeightsError: a key is missing, ambiguous, of another shape or not finite.
    """
    _check_name(name)
    model = _build(name, _IMAGENET_CLASSES)
    num_classes = _count_classes(name, model, state_dict)
    if num_classes != _IMAGENET_CLASSES:
        model = _build(name, num_classes)
    report = load_weights(model, state_dict, kind="classifier")
    return LoadedClassifier(model.eval(), num_classes, report)


def single_crop(images: Float[Tensor, "n 3 h w"], crop_px: int) -> Float[Tensor, "n 3 c c"]:
    """The squares in the middle of images.

    Raises:
        ValueError: the crop is larger than the images.
    """
    (top, left), _ = _crop_edges(images, crop_px)
    return images[:, :, top : top + crop_px, left : left + crop_px]


def ten_crops(images: Float[Tensor, "n 3 h w"], crop_px: int) -> Float[Tensor, "n 10 3 c c"]:
    """The four corners and the middle, then the same of the mirrored image, as torchvision's.

    Raises:
        ValueError: the crop is larger than the images.
    """
    (top, left), (bottom, right) = _crop_edges(images, crop_px)
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (top, left)]
    crops = [
        view[:, :, y : y + crop_px, x : x + crop_px]
        for view in (images, images.flip(3))
        for y, x in corners
    ]
    return torch.stack(crops, dim=1)


@torch.no_grad()
def classify(
    model: nn.Module,
    images: Float[Tensor, "n 3 h w"],
    crop_px: int,
    *,
    num_crops: Literal[1, 10] = 1,
    averaged: Averaged = "probabilities",
) -> Float[Tensor, "n k"]:
    """Class probabilities of images, each seen through one crop or ten.

    Args:
        model: in evaluation mode; images to logits.
        images: normalised as the model expects; at least ``crop_px`` high and wide.
        crop_px: side of the crops.
        num_crops: 1 or 10.
        averaged: see :func:`average_crops`.

    Raises:
        ValueError: the crop is larger than the images.
    """
    crops = single_crop(images, crop_px)[:, None] if num_crops == 1 else ten_crops(images, crop_px)
    logits = model(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
    return average_crops(logits, averaged=averaged)


def average_crops(
    logits: Float[Tensor, "n t k"], *, averaged: Averaged = "probabilities"
) -> Float[Tensor, "n k"]:
    """Class probabilities from each image's t crops, float32 at least; each row sums to 1.

    Args:
        logits: of the crops.
        averaged: the crops' ``probabilities``, as PSOL does, or their ``logits``. The same for
            one crop.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if averaged == "logits":
        return wide.mean(dim=1).softmax(dim=1)
    return wide.softmax(dim=2).mean(dim=1)


def top_classes(
    probabilities: Float[Tensor, "n k"], num: int = 5
) -> tuple[Int[Tensor, "n t"], Float[Tensor, "n t"]]:
    """The most probable classes, best first, and their probabilities.

    Of equals the lower index comes first, on every device. There are at most k. NaN comes
    first, so that a broken image shows.
    """
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :num]
    return order, probabilities.gather(1, order)


def _check_name(name: str) -> None:
    names = classifier_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"such as {', '.join(names[:3])}"
        raise ValueError(f"torchvision has no classifier {name!r}; {hint}")


def _build(name: str, num_classes: int) -> nn.Module:
    options = _RESCALING.get(name, {})
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)


def _count_classes(name: str, model: nn.Module, state_dict: Mapping[str, Any]) -> int:
    """How many rows the checkpoint's last layer has, whatever the architecture calls it."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    last = [key for key, shape in shapes.items() if shape[:1] == (_IMAGENET_CLASSES,)][-1]
    rows = strip_wrappers(state_dict).get(bare_key(last))
    if not isinstance(rows, Tensor) or rows.ndim == 0 or len(rows) == 0:
        raise WeightsError(f"{last} is missing: not the weights of a {name} that classifies")
    return len(rows)


def _crop_edges(
    images: Float[Tensor, "n 3 h w"], crop_px: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top and left of the middle crop and of the lower right one."""
    height, width = images.shape[2:]
    if not 0 < crop_px <= min(height, width):
        raise ValueError(f"a crop of {crop_px} pixels does not fit into {height} x {width}")
    bottom, right = height - crop_px, width - crop_px
    return (round(bottom / 2), round(right / 2)), (bottom, right)
