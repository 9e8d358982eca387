"""Deep descriptor transformation: what the features of many images have in common.

Wei et al., "Unsupervised Object Discovery and Co-Localization by Deep Descriptor
Transforming" (Pattern Recognition 2019, arXiv:1707.06397). Every position of every feature map
is a descriptor; the first principal component of all descriptors of a class (or of the whole
set) is what tells object from background. Statistics are taken in one pass, need c^2 numbers
however many images there are, and merge in any order.
"""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

MIN_IMAGES = 2
"""What one image has in common with itself is everything."""
_BLOCK = 128
"""Channels whose products with all others are taken at a time."""
_SAME = 1e-12
"""Relative deviation up to which descriptors differ by rounding alone."""


@dataclasses.dataclass(slots=True)
class DescriptorStats:
    """Count, mean and scatter of descriptors: all that their principal component needs.

    Merging follows Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise
    algorithm for computing sample variances": sums of squares about the mean are kept, never
    about zero, where features with a large mean would cancel. Memory is 8 c^2 bytes: 2 MiB at
    512 channels, 32 MiB at 2048. Statistics of many classes at once need as much for each.
    """

    mean: Float64[Tensor, " c"]
    scatter: Float64[Tensor, "c c"]
    """Sum of (z - mean) (z - mean)^T over descriptors z."""
    num_positions: int = 0
    num_images: int = 0

    @classmethod
    def empty(cls, num_features: int, device: torch.device | str = "cpu") -> "DescriptorStats":
        mean = torch.zeros(num_features, dtype=torch.float64, device=device)
        return cls(mean, torch.zeros_like(mean).repeat(num_features, 1))

    @torch.no_grad()
    def add(self, features: Float[Tensor, "n c h w"]) -> None:
        """Counts every position of a batch of feature maps.

        Raises:
            ValueError: a feature is NaN or infinite; nothing is counted then.
        """
        if features.numel() == 0:
            return
        with torch.autocast(features.device.type, enabled=False):
            descriptors = features.transpose(0, 1).flatten(1).double()  # c nhw
            mean = descriptors.mean(dim=1)
            if not torch.isfinite(mean).all():
                raise ValueError(f"features of {len(features)} images hold NaN or infinity")
            self._add_products(descriptors - mean[:, None])
        self._account_for(mean, descriptors.shape[1], len(features))

    @torch.no_grad()
    def merge(self, other: "DescriptorStats") -> "DescriptorStats":
        """The statistics of both, which must not share images and must lie on one device."""
        whole = dataclasses.replace(
            self, mean=self.mean.clone(), scatter=self.scatter + other.scatter
        )
        whole._account_for(other.mean, other.num_positions, other.num_images)
        return whole

    def _add_products(self, centred: Float64[Tensor, "c p"]) -> None:
        """Adds the products of all pairs of channels; each block off the diagonal serves twice."""
        for start in range(0, len(centred), _BLOCK):
            end = start + _BLOCK
            products = centred[start:end] @ centred[start:].T
            self.scatter[start:end, start:] += products
            self.scatter[end:, start:end] += products[:, _BLOCK:].T

    def _account_for(
        self, mean: Float64[Tensor, " c"], num_positions: int, num_images: int
    ) -> None:
        """Completes the count, the mean, and the scatter by that between the two means."""
        if num_positions == 0:
            return
        share = num_positions / (self.num_positions + num_positions)
        apart = mean - self.mean
        self.scatter.addr_(apart, apart, alpha=self.num_positions * share)
        self.mean += share * apart
        self.num_positions += num_positions
        self.num_images += num_images

    def cpu(self) -> "DescriptorStats":
        """A copy on the CPU, to be sent to other processes."""
        return dataclasses.replace(self, mean=self.mean.cpu(), scatter=self.scatter.cpu())


class DescriptorTransform(NamedTuple):
    """The direction in which descriptors vary most."""

    mean: Float64[Tensor, " c"]
    component: Float64[Tensor, " c"]
    """Of length one; its sign is that of :func:`principal_component`."""
    explained: float
    """Share of the variance that lies in this direction, in (0, 1]."""


def add_by_class(
    stats: dict[int, DescriptorStats],
    features: Float[Tensor, "n c h w"],
    class_index: Int[Tensor, " n"],
) -> None:
    """Counts each image of a batch in its class's statistics; new classes are begun.

    A batch of one class costs one matrix product, one of many classes a product for each: feed
    images sorted by class where there is a choice.

    Raises:
        ValueError: a feature is NaN or infinite; nothing is counted then.
    """
    if not torch.isfinite(features).all():
        raise ValueError(f"features of {len(features)} images hold NaN or infinity")
    for index in class_index.unique().tolist():
        if index not in stats:
            stats[index] = DescriptorStats.empty(features.shape[1], features.device)
        stats[index].add(features[class_index == index])


def principal_component(
    stats: DescriptorStats, *, min_images: int = MIN_IMAGES
) -> DescriptorTransform:
    """The first principal component of the descriptors, by eigendecomposition of their scatter.

    The sign of an eigenvector is arbitrary, and here it decides which side is the object. The
    component's largest entry in size is made positive (of equals the first): the channel that
    says most responds more on the object. So does the published code with scikit-learn 1.5 or
    later, which fixes signs that way; until 1.4 the position with the largest |heat| was
    positive, which takes a second pass over the features. docs/method.md has measurements.

    Args:
        stats: of one class, or of the whole set.
        min_images: fewest images to tell anything from.

    Raises:
        ValueError: there are fewer images, or all descriptors are the same.
    """
    if stats.num_images < min_images:
        raise ValueError(
            f"DDT needs at least {min_images} images to find what they have in common, "
            f"got {stats.num_images}"
        )
    variance = stats.scatter.trace().item()
    rounding = stats.num_positions * (_SAME * stats.mean.norm().item()) ** 2
    if not variance > rounding:
        raise ValueError(f"all descriptors of {stats.num_images} images are the same")
    values, vectors = torch.linalg.eigh(stats.scatter)
    component = vectors[:, -1]
    component = component * component[component.abs().argmax()].sign()
    return DescriptorTransform(stats.mean, component, min(values[-1].item() / variance, 1.0))


def transform_of(
    transforms: dict[int, DescriptorTransform], class_index: int
) -> DescriptorTransform:
    """The transform of a class.

    Raises:
        ValueError: no image of the class was seen.
    """
    if class_index not in transforms:
        raise ValueError(f"class {class_index} was never seen; DDT knows {len(transforms)} classes")
    return transforms[class_index]


@torch.no_grad()
def heat_maps(
    features: Float[Tensor, "n c h w"], transform: DescriptorTransform
) -> Float[Tensor, "n 1 h w"]:
    """(Z - mean) . component at each position, of any sign; float32 at least.

    Positive cells are the object's. Images with NaN among their features have NaN heat.
    """
    common = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        component = transform.component.to(features.device, common)
        heat = torch.einsum("nchw,c->nhw", features.to(common), component)
        offset = (transform.mean @ transform.component).to(features.device, common)
    return (heat - offset)[:, None]


def positive_part(heat: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """The heat as an activation map in [0, 1]: negative cells 0, divided by the maximum.

    An image without positive cells keeps zeros; NaN stays NaN.
    """
    positive = heat.clamp(min=0)
    peak = positive.amax(dim=(2, 3), keepdim=True)
    return positive / torch.where(peak == 0, torch.inf, peak)
