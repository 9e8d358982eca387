"""SIPE: each image has its own prototypes of its classes, and its maps agree with the network's.

Chen et al., "Self-supervised Image-specific Prototype Exploration for Weakly Supervised Semantic
Segmentation" (CVPR 2022). A class activation map finds the cells that look like the class in
general. Cells of an image whose semantic structure matches that map become seeds; the mean
feature of a class's seeds is its prototype in this image, and what resembles the prototype is
the image-specific map (IS-CAM). Training makes the two maps agree.

Sections are the paper's. Maps have m = K + 1 channels, the background's first. Constants and
what the paper leaves open: METHODS.md, "SIPE".
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2am_dist.method.multilabel import PRESENT, soft_margin_loss
from c2am_dist.method.vectors import check_finite, directions, unmixed, wide

BACKGROUND_WEIGHT = 0.5
"""alpha: what the background's score counts for against those of classes."""
CHUNK_BYTES = 2**26
"""Of the structure maps that exist at a time. 64 MiB are all of a batch of 16 crops of 512
pixels, the published setting."""
_PEAK_FLOOR = 1e-5
"""Added to a map's maximum before dividing by it."""


def general_activation(
    class_activation: Float[Tensor, "n k h w"],
    is_valid: Bool[Tensor, "_ _"],
    *,
    check: bool = True,
) -> Float[Tensor, "n m h w"]:
    """The general map M of each channel, in [0, 1]; float32 at least. Section 3.1.

    A class's is ReLU of its class activation map, divided by (its maximum + 1e-5); the
    background's is 1 less the largest of all classes', including those not in the image.
    Channels that are not valid are 0.

    Args:
        class_activation: of any sign, before global average pooling's result is a logit.
        is_valid: n m, of multilabel.valid_channels.
        check: whether to look for NaN and infinity, which waits for the device.

    Raises:
        ValueError: ``is_valid`` is not n m, or a map holds NaN or infinity.
    """
    n, k = class_activation.shape[:2]
    if is_valid.shape != (n, k + 1):
        raise ValueError(
            f"validity must be of shape {(n, k + 1)}, the background and {k} classes of {n} "
            f"images, got {tuple(is_valid.shape)}"
        )
    if check:
        check_finite(class_activation, "class activation maps")
    classes = _over_peak(wide(class_activation).relu())
    background = 1 - classes.amax(dim=1, keepdim=True)
    return torch.cat([background, classes], dim=1) * is_valid[:, :, None, None]


@torch.no_grad()
def structure_scores(
    features: Float[Tensor, "n c h w"],
    activation: Float[Tensor, "_ m _ _"],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    check: bool = True,
) -> Float[Tensor, "n m h w"]:
    """C: how well the structure around each cell matches each channel's map, in [0, 1].

    The structure map of a cell is ReLU of its feature's cosine with every cell's. Its soft IoU
    with a map is the sum of their product, over the sum of both less that of their product; the
    background's counts half. Section 3.2.1. No gradient: seeds are an argmax of it.

    Structure maps are (h w)^2 numbers an image. As many cells' at a time as fit into
    ``chunk_bytes`` are made, and the result is the same but for rounding.

    Args:
        features: semantic, the last stage's.
        activation: of :func:`general_activation`.
        chunk_bytes: at least one cell's, n h w numbers, are made at a time.
        check: whether to look for NaN and infinity, which waits for the device.

    Raises:
        ValueError: images or cells of the two differ, ``chunk_bytes`` is not positive, or a
            feature is NaN or infinite.
    """
    _check_cells(features, activation, "activation maps")
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be >= 1, got {chunk_bytes}")
    if check:
        check_finite(features, "semantic features")
    with unmixed(features.device):
        cells = directions(features).flatten(2)  # n c p
        maps = activation.flatten(2).to(cells.dtype)  # n m p
        areas = maps.sum(dim=2, keepdim=True)
        scores = torch.empty_like(maps)
        row_bytes = len(cells) * cells.shape[2] * cells.element_size()
        num_queries = max(1, chunk_bytes // max(1, row_bytes))
        for start in range(0, cells.shape[2], num_queries):
            chunk = slice(start, start + num_queries)
            scores[:, :, chunk] = _soft_iou(cells[:, :, chunk], cells, maps, areas)
    scores[:, 0] *= BACKGROUND_WEIGHT
    return scores.unflatten(2, features.shape[2:])


@torch.no_grad()
def locate_seeds(
    scores: Float[Tensor, "n m h w"], is_valid: Bool[Tensor, "_ _"]
) -> Bool[Tensor, "n m h w"]:
    """R: the channel of the highest score at each cell, of equals the first. Section 3.2.1.

    A cell whose best channel is not valid is no seed; it does not go to the next best.

    Args:
        scores: of :func:`structure_scores`.
        is_valid: n m.

    Raises:
        ValueError: the shapes do not fit.
    """
    if is_valid.shape != scores.shape[:2]:
        raise ValueError(
            f"validity must be of shape {tuple(scores.shape[:2])}, got {tuple(is_valid.shape)}"
        )
    seeds = torch.zeros_like(scores, dtype=torch.bool)
    seeds.scatter_(1, scores.argmax(dim=1, keepdim=True), True)
    return seeds & is_valid[:, :, None, None]


def image_prototypes(
    features: Float[Tensor, "n d h w"], seeds: Bool[Tensor, "_ m _ _"], *, check: bool = True
) -> Float[Tensor, "n m d"]:
    """P: the sum of each channel's seeds' features over the number of all cells. Section 3.2.2.

    A channel without seeds has zeros. The paper's mean is over seeds; the length of a prototype
    does not change the cosines it is for. float32 at least.

    Args:
        features: hierarchical, d channels.
        seeds: of :func:`locate_seeds`.
        check: whether to look for NaN and infinity, which waits for the device.

    Raises:
        ValueError: images or cells of the two differ, or a feature is NaN or infinite.
    """
    _check_cells(features, seeds, "seeds")
    if check:
        check_finite(features, "hierarchical features")
    with unmixed(features.device):
        cells = wide(features).flatten(2)
        return seeds.flatten(2).to(cells.dtype) @ cells.transpose(1, 2) / cells.shape[2]


def specific_activation(
    features: Float[Tensor, "n d h w"], prototypes: Float[Tensor, "_ m _"]
) -> Float[Tensor, "n m h w"]:
    """IS-CAM: ReLU of the cosine of each cell with each prototype, in [0, 1]. Section 3.2.2.

    0 where either is zero, with no gradient; float32 at least.

    Args:
        features: hierarchical, d channels.
        prototypes: n m d, of the same features.

    Raises:
        ValueError: images or channels of the two differ.
    """
    n, d = features.shape[:2]
    if (len(prototypes), prototypes.shape[2]) != (n, d):
        raise ValueError(
            f"prototypes must be of {n} images and {d} channels, got {tuple(prototypes.shape)}"
        )
    with unmixed(features.device):
        cells = directions(features).flatten(2)
        centres = directions(prototypes.transpose(1, 2)).to(cells.dtype)  # n d m
        cosine = centres.transpose(1, 2) @ cells
    return cosine.relu().unflatten(2, features.shape[2:])


def consistency_loss(
    activation: Float[Tensor, "n m h w"], specific: Float[Tensor, "_ _ _ _"]
) -> Float[Tensor, " n"]:
    """GSC: mean absolute difference of general and image-specific maps, in [0, 1].

    The mean is over all m channels, of which those not valid are 0 in both; the image-specific
    map is first divided by (its maximum + 1e-5). Both maps get gradients. Section 3.3.

    Raises:
        ValueError: the shapes differ.
    """
    if activation.shape != specific.shape:
        raise ValueError(
            f"image-specific maps must be of shape {tuple(activation.shape)}, "
            f"got {tuple(specific.shape)}"
        )
    return (wide(activation) - _over_peak(wide(specific))).abs().mean(dim=(1, 2, 3))


class SipeOutput(NamedTuple):
    """What the losses of a batch need, and what is found in its images."""

    logits: Float[Tensor, "n k"]
    activation: Float[Tensor, "n m h w"]
    """General, in [0, 1]."""
    specific: Float[Tensor, "n m h w"]
    """Image-specific: cosines in [0, 1], whose maximum is 1 at best."""
    seeds: Bool[Tensor, "n m h w"]


class SipeLoss(NamedTuple):
    """The terms, one number an image: they add up to the total."""

    classification: Float[Tensor, " n"]
    consistency: Float[Tensor, " n"]

    @property
    def total(self) -> Float[Tensor, " n"]:
        return self.classification + self.consistency


def sipe_loss(output: SipeOutput, labels: Int[Tensor, "_ _"], *, check: bool = True) -> SipeLoss:
    """The loss of each image: multi-label soft margin of its logits, and consistency.

    The published loss is the mean over images. Section 3.3.

    Args:
        output: of the model.
        labels: n k, those the model was given.
        check: see multilabel.soft_margin_loss.

    Raises:
        ValueError: see multilabel.soft_margin_loss.
    """
    classification = soft_margin_loss(output.logits, labels, check=check)
    # Deviation: an image without any class has no consistency; its only seeds would be the
    # background's, in maps of classes that are not there. VOC and the published code know none.
    has_class = (labels == PRESENT).any(dim=1)
    consistency = consistency_loss(output.activation, output.specific) * has_class
    return SipeLoss(classification, consistency)


def _soft_iou(
    queries: Float[Tensor, "n c q"],
    cells: Float[Tensor, "n c p"],
    maps: Float[Tensor, "n m p"],
    areas: Float[Tensor, "n m 1"],
) -> Float[Tensor, "n m q"]:
    """Of each query's structure map, which is freed on return, with each map; 0 if both are 0."""
    structure = (cells.transpose(1, 2) @ queries).relu_()  # n p q
    overlap = maps @ structure
    union = structure.sum(dim=1, keepdim=True) + areas - overlap
    return overlap / torch.where(union == 0, torch.inf, union)


def _over_peak(maps: Float[Tensor, "n m h w"]) -> Float[Tensor, "n m h w"]:
    """Maps, >= 0, each divided by (its maximum + 1e-5)."""
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + _PEAK_FLOOR)


def _check_cells(features: Tensor, others: Tensor, name: str) -> None:
    """Refuses maps that are not of the features' images and cells."""
    (n, _, *size), (count, _, *found) = features.shape, others.shape
    if (n, size) != (count, found):
        raise ValueError(
            f"{name} must be of {n} images and {size[0]} x {size[1]} cells like the features, "
            f"got {count} and {found[0]} x {found[1]}"
        )
