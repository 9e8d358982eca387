"""Images of several classes at once: which are in an image, and the loss of a classifier of them.

What CAM and SIPE share where segmentation is trained from image labels. A label is one number
for each class: 1 for one in the image, 0 for one that is not, -1 where nobody knows.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2am_dist.method.vectors import wide

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""A class's label. Unknown are those that annotators could not tell, or were not asked for."""


def valid_channels(labels: Int[Tensor, "n k"], *, check: bool = True) -> Bool[Tensor, "n m"]:
    """Which of m = k + 1 channels may show something in each image, the background's first.

    The background is in every image; of the classes those labeled as present. Unknown classes
    are left out like absent ones, since a map of what may not be there is no cue.

    Args:
        labels: 1, 0 or -1 for each image and class.
        check: whether to look at the values, which waits for the device.

    Raises:
        ValueError: a label is not 1, 0 or -1.
    """
    if check:
        _check_values(labels)
    return F.pad(labels == PRESENT, (1, 0), value=True)


def soft_margin_loss(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, "_ _"], *, check: bool = True
) -> Float[Tensor, " n"]:
    """The multi-label soft margin loss of each image, >= 0: the mean over its known classes.

    Of class k it is -log sigmoid(x_k) where the class is present and -log sigmoid(-x_k) where
    it is absent; unknown classes take no part and get no gradient. Without unknown classes the
    mean over images is the published loss. float32 at least.

    Args:
        logits: of any sign.
        labels: 1, 0 or -1 for each image and class. All may be 0.
        check: whether to look at the labels' values, which waits for the device. Without, an
            image whose labels are all unknown has a loss of NaN.

    Raises:
        ValueError: shapes differ, a label is not 1, 0 or -1, or all of an image's are unknown.
    """
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be of shape {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    is_known = labels != UNKNOWN
    if check:
        _check_values(labels)
        _check_images(is_known)
    # Before the loss, not after it: an infinite logit of an unknown class would pass NaN.
    scores = torch.where(is_known, wide(logits), 0)
    target = (labels == PRESENT).to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    return (losses * is_known).sum(dim=1) / is_known.sum(dim=1)


def _check_values(labels: Int[Tensor, "n k"]) -> None:
    is_stray = (labels < UNKNOWN) | (labels > PRESENT)
    if is_stray.any():
        raise ValueError(f"labels must be 1, 0 or -1, got {labels[is_stray][0].item()}")


def _check_images(is_known: Bool[Tensor, "n k"]) -> None:
    is_empty = ~is_known.any(dim=1)
    if is_empty.any():
        places = ", ".join(map(str, is_empty.nonzero().flatten().tolist()))
        raise ValueError(f"images {places} of the batch have no known label")


def f1_scores(logits: Float[Tensor, "n k"], labels: Int[Tensor, "_ _"]) -> Float[Tensor, " n"]:
    """F1 of each image's classes, those with a logit above 0, in [0, 1]; 1 if none is or should be.

    Unknown classes take no part. No gradient.

    Args:
        logits: of any sign.
        labels: 1, 0 or -1 for each image and class.
    """
    is_present = labels == PRESENT
    is_predicted = (logits.detach() > 0) & (labels != UNKNOWN)
    num_both = (is_predicted & is_present).sum(dim=1)
    num_either = is_predicted.sum(dim=1) + is_present.sum(dim=1)
    share = 2 * num_both / num_either.clamp(min=1)
    return torch.where(num_either == 0, 1, share).to(wide(logits).dtype)
