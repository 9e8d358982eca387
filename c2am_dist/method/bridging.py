"""Bridging the Gap: a classifier whose features point where its class does.

Kim et al., "Bridging the Gap Between Classification and Localization for Weakly Supervised
Object Localization" (CVPR 2022). A class activation map is the product of the features' norm
and their cosine with the class's weight. Training makes the two agree (feature direction
alignment) and spreads the norm over the object (consistency with attentive dropout).

Every loss is one number per image. The published loss is their mean; a worker sums its own
images' and divides by its share of the batch.
"""

import dataclasses
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2am_dist.method.activation import normalise
from c2am_dist.method.cam import check_classes
from c2am_dist.method.vectors import directions, wide

NormClass = Literal["target", "best"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BridgingConstants:
    """Weights of the losses, thresholds of their regions, and when they set in."""

    drop_weight: float = 2.0
    """Of the consistency with attentive dropout."""
    similarity_weight: float = 0.5
    """Of the similarity loss."""
    norm_weight: float = 0.05
    """Of the norm loss."""
    foreground_threshold: float = 0.4
    """tau_fg: cells with a larger normalised norm are the object, for the similarity loss."""
    background_threshold: float = 0.2
    """tau_bg: cells with a smaller one are background."""
    drop_threshold: float = 0.8
    """theta: cells whose channel mean exceeds this share of the image's maximum may drop."""
    drop_rate: float = 0.25
    """p: probability with which each of them does."""
    norm_class: NormClass = "best"
    """Whose similarity tells object from background in the norm loss: the target class's
    (ImageNet), or of each cell the best class's (CUB)."""
    warmup_share: float = 20 / 70
    """Share of the training without the two alignment losses: 20 of 70 epochs."""

    def __post_init__(self) -> None:
        if not 0 <= self.background_threshold <= self.foreground_threshold <= 1:
            raise ValueError(
                "background_threshold and foreground_threshold must be ordered in [0, 1], got "
                f"{self.background_threshold} and {self.foreground_threshold}"
            )
        for name in ("drop_threshold", "drop_rate", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("drop_weight", "similarity_weight", "norm_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.norm_class not in ("target", "best"):
            raise ValueError(f"norm_class must be 'target' or 'best', got {self.norm_class!r}")


# METHODS.md, "Bridging the Gap", which gives the numbers of both networks once and, for
# ImageNet, only the other class of the norm loss.
RESNET50_CUB = BridgingConstants()
VGG16_CUB = BridgingConstants(
    drop_weight=3.0,
    similarity_weight=0.5,
    norm_weight=0.15,
    foreground_threshold=0.6,
    background_threshold=0.1,
    drop_threshold=0.8,
    drop_rate=0.5,
)
RESNET50_IMAGENET = dataclasses.replace(RESNET50_CUB, norm_class="target")
VGG16_IMAGENET = dataclasses.replace(VGG16_CUB, norm_class="target")


def channel_norm(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """The length of the feature vector at each cell, ||F||, >= 0; float32 at least."""
    return torch.linalg.vector_norm(wide(features), dim=1, keepdim=True)


def norm_map(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """The normalised feature map: :func:`channel_norm` stretched to [0, 1] per image.

    Images whose cells all have the same norm have zeros.
    """
    return normalise(channel_norm(features))


def similarity_maps(
    features: Float[Tensor, "n c h w"], weight: Float[Tensor, "k c"]
) -> Float[Tensor, "n k h w"]:
    """S: the cosine of features and each class's weight at each cell, in [-1, 1].

    0 where either is zero. float32 at least, also under autocast.
    """
    with torch.autocast(features.device.type, enabled=False):
        cells, rows = directions(features), directions(weight)
        return torch.einsum("nchw,kc->nkhw", cells, rows.to(cells.dtype))


class Decomposition(NamedTuple):
    """A class activation map and its two factors: ``norm * weight_norm * similarity``."""

    norm: Float[Tensor, "n 1 h w"]
    """||F||; :func:`norm_map` is what the losses and pictures take."""
    weight_norm: Float[Tensor, "n 1 1 1"]
    """||w|| of the image's class."""
    similarity: Float[Tensor, "n 1 h w"]

    @property
    def class_activation(self) -> Float[Tensor, "n 1 h w"]:
        """The map, of any sign, that cam.class_activation_of computes in one product."""
        return self.norm * self.weight_norm * self.similarity


def decompose(
    features: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "k c"],
    class_index: Int[Tensor, " n"],
) -> Decomposition:
    """The class activation map of one class per image as the product of its factors.

    Raises:
        ValueError: an index is no class.
    """
    check_classes(class_index, len(weight))
    rows = weight[class_index]
    length = torch.linalg.vector_norm(wide(rows), dim=1).view(-1, 1, 1, 1)
    return Decomposition(channel_norm(features), length, target_similarity(features, rows))


def target_similarity(
    features: Float[Tensor, "n c h w"], rows: Float[Tensor, "n c"]
) -> Float[Tensor, "n 1 h w"]:
    """As :func:`similarity_maps`, of one class per image; ``rows`` are those classes' weights."""
    with torch.autocast(features.device.type, enabled=False):
        cells, units = directions(features), directions(rows)
        return torch.einsum("nchw,nc->nhw", cells, units.to(cells.dtype))[:, None]


def similarity_loss(
    similarity: Float[Tensor, "n 1 h w"],
    norms: Float[Tensor, "n 1 h w"],
    *,
    foreground_threshold: float,
    background_threshold: float,
) -> Float[Tensor, " n"]:
    """Mean similarity over the background less that over the object, in [-2, 2].

    A region without cells counts as 0. The regions pass no gradient.

    Args:
        similarity: of the target class.
        norms: of :func:`norm_map`.
        foreground_threshold: the object is where the norm is larger.
        background_threshold: the background is where it is smaller.
    """
    return _mean(similarity, norms < background_threshold) - _mean(
        similarity, norms > foreground_threshold
    )


def norm_loss(
    norms: Float[Tensor, "n 1 h w"], similarity: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, " n"]:
    """Mean norm over cells of negative similarity less that over those of positive, in [-1, 1].

    A region without cells counts as 0. The regions pass no gradient.

    Args:
        norms: of :func:`norm_map`.
        similarity: of the target class, or at each cell the best class's.
    """
    return _mean(norms, similarity < 0) - _mean(norms, similarity > 0)


def attentive_dropout(
    features: Float[Tensor, "n c h w"],
    *,
    threshold: float,
    rate: float,
    draws: Float[Tensor, "n 1 h w"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    """The features with their brightest cells zeroed, each with probability ``rate``.

    Args:
        features: post-ReLU.
        threshold: cells whose channel mean exceeds this share of the image's maximum may drop.
        rate: in [0, 1]; 1 drops all of them.
        draws: a number in [0, 1) for each cell, which drops below ``rate``; drawn here if None.
        generator: of the features' device; torch's global one if None.
    """
    with torch.no_grad():
        mean = wide(features).mean(dim=1, keepdim=True)
        is_bright = mean > threshold * mean.amax(dim=(2, 3), keepdim=True)
        if draws is None:
            draws = torch.rand(mean.shape, device=mean.device, generator=generator)
        is_kept = ~(is_bright & (draws < rate))
    return features * is_kept


def drop_loss(
    features: Float[Tensor, "n c h w"], dropped: Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """Mean absolute difference of features with and without attentive dropout, >= 0."""
    return (wide(features) - wide(dropped)).abs().mean(dim=(1, 2, 3))


class BridgingOutput(NamedTuple):
    """What the losses of a batch need."""

    logits: Float[Tensor, "n k"]
    features: Float[Tensor, "n c h w"]
    """The last stage's."""
    dropped: Float[Tensor, "n c h w"]
    """The last stage's with attentive dropout; in evaluation mode ``features`` itself."""


class BridgingLoss(NamedTuple):
    """The terms, one number an image, weighted: they add up to the total."""

    classification: Float[Tensor, " n"]
    drop: Float[Tensor, " n"]
    similarity: Float[Tensor, " n"]
    norm: Float[Tensor, " n"]

    @property
    def total(self) -> Float[Tensor, " n"]:
        return self.classification + self.drop + self.similarity + self.norm


def bridging_loss(
    output: BridgingOutput,
    weight: Float[Tensor, "k c"],
    target: Int[Tensor, " n"],
    *,
    constants: BridgingConstants,
    is_warmup: bool,
) -> BridgingLoss:
    """The loss of each image: cross entropy, dropout consistency, and alignment after warm-up.

    Args:
        output: of the model, in training mode.
        weight: of its linear layer; it is trained by the similarity loss, too.
        target: class indices.
        constants: one of the published sets, or others.
        is_warmup: leaves out the two alignment losses: both are 0 then.
    """
    features = wide(output.features)
    classification = F.cross_entropy(wide(output.logits), target, reduction="none")
    drop = constants.drop_weight * drop_loss(features, output.dropped)
    if is_warmup:
        nothing = torch.zeros_like(classification)
        return BridgingLoss(classification, drop, nothing, nothing)
    norms = norm_map(features)
    similarity = target_similarity(features, weight[target])
    alignment = similarity_loss(
        similarity,
        norms,
        foreground_threshold=constants.foreground_threshold,
        background_threshold=constants.background_threshold,
    )
    if constants.norm_class == "best":
        with torch.no_grad():  # only its sign counts
            similarity = similarity_maps(features, weight).amax(dim=1, keepdim=True)
    return BridgingLoss(
        classification,
        drop,
        constants.similarity_weight * alignment,
        constants.norm_weight * norm_loss(norms, similarity),
    )


def _mean(values: Float[Tensor, "n 1 h w"], region: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Each image's mean over a region; 0 where it is empty."""
    total = torch.where(region, values, 0).sum(dim=(1, 2, 3))
    return total / region.sum(dim=(1, 2, 3)).clamp(min=1)
