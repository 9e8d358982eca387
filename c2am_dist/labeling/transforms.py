"""What DDT's first pass leaves for the second, as one file in the output folder."""

import dataclasses
import io

import numpy as np
import torch

from c2am_dist.method.ddt import DescriptorTransform

FILE = "_ddt.npz"
"""Where they lie in the output folder; readers of label files skip the name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transforms:
    """By class, or of `localizers.WHOLE_SET`."""

    by_class: dict[str, DescriptorTransform]
    reasons: dict[str, str]
    """Why a class has none, such as that a single image of it could be read."""


def to_bytes(transforms: Transforms) -> bytes:
    """An npz without pickles; the same transforms are the same bytes."""
    names = sorted(transforms.by_class)
    found = [transforms.by_class[name] for name in names]
    failed = sorted(transforms.reasons)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        classes=np.array(names, np.str_),
        mean=np.array([each.mean.numpy() for each in found]),
        component=np.array([each.component.numpy() for each in found]),
        explained=np.array([each.explained for each in found]),
        failed=np.array(failed, np.str_),
        reasons=np.array([transforms.reasons[name] for name in failed], np.str_),
    )
    return buffer.getvalue()


def from_bytes(data: bytes) -> Transforms:
    """Raises ValueError or KeyError when the file holds anything else, and runs no code of it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        means, components = torch.tensor(stored["mean"]), torch.tensor(stored["component"])
        rows = zip(means, components, stored["explained"].tolist(), strict=True)
        found = [DescriptorTransform(*row) for row in rows]
        return Transforms(
            dict(zip(stored["classes"].tolist(), found, strict=True)),
            dict(zip(stored["failed"].tolist(), stored["reasons"].tolist(), strict=True)),
        )
