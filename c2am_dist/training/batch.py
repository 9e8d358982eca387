"""One worker's images of a step, and what every method does with them alike."""

import contextlib
import dataclasses
from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Autocast = Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a method takes gradients of, on the device."""

    images: Tensor
    """float32, n 3 h w: normalised."""
    labels: Tensor | None = None
    """int64, n: indices into the run's classes; where images have several, int8, n K: 1 for each
    class in the image, else 0."""
    boxes: Tensor | None = None
    """float32, n 4: relative pseudo boxes."""
    is_visible: Tensor | None = None
    """bool, n: whether the image shows its box."""
    cues: Tensor | None = None
    """float32, n q q: background cues in [0, 1], 1 = background."""
    is_known: Tensor | None = None
    """bool, n: whether the image has a cue."""
    step: int = 0
    total_steps: int = 1
    row_offset: int = 0
    """Index in the global batch of the first image."""

    def split(self, num_pieces: int) -> "list[Batch]":
        """The batch in nearly equal pieces, in order."""
        names = ("images", "labels", "boxes", "is_visible", "cues", "is_known")
        whole = {name: getattr(self, name) for name in names}
        cut = {n: t.tensor_split(num_pieces) for n, t in whole.items() if t is not None}
        pieces, offset = [], self.row_offset
        for i in range(num_pieces):
            own = {name: tensors[i] for name, tensors in cut.items()}
            pieces.append(dataclasses.replace(self, row_offset=offset, **own))
            offset += len(own["images"])
        return pieces


def num_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def without_sync(model: nn.Module, *, unless: bool) -> contextlib.AbstractContextManager[object]:
    """Leaves gradients on this worker for now; ``unless`` it is the last piece of a step."""
    if isinstance(model, DistributedDataParallel) and not unless:
        return model.no_sync()
    return contextlib.nullcontext()
