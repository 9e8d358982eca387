"""Feature vectors: a type wide enough for them, whether they are numbers, where they point."""

import contextlib

import torch
from jaxtyping import Float
from torch import Tensor


def wide(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The values as float32 at least: autocast leaves bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unmixed(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, no product is computed in bfloat16, also where autocast is on.

    The meta device, where shapes are all there is, knows no autocast.
    """
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def directions(vectors: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    """Vectors along the channels at length one; zero stays zero and passes no gradient."""
    found = wide(vectors)
    length = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    # Not F.normalize, which passes a gradient of 1e12 where features are zero.
    return found / torch.where(length == 0, torch.inf, length)


def check_finite(values: Float[Tensor, "n ..."], name: str) -> None:
    """Refuses a batch of which an image holds NaN or infinity.

    Raises:
        ValueError: ``name``, in the plural, and the images' places in the batch.
    """
    is_finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not is_finite.all():
        places = ", ".join(map(str, (~is_finite).nonzero().flatten().tolist()))
        raise ValueError(f"{name} hold NaN or infinity in images {places} of the batch")
