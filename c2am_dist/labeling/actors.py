"""The actors that hold a model: batches of pixels to what is found in them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import torch

from c2am_dist.config import LabelConfig
from c2am_dist.labeling.batches import Batch, pack, split, unpack
from c2am_dist.labeling.localizers import Localizer, View
from c2am_dist.method import encoders


class BatchActor(Protocol):
    """What runs a model on batches, on one device."""

    def __call__(self, block: Batch) -> Batch:
        """The block with what the model finds in place of ``pixels_0``, ..."""
        ...


class ModelActor:
    """Turns the pixels of a batch into what a method finds in them.

    Args:
        localizer: reference to the method with its model, one object for all actors.
        config: scales, mirroring and precision.
        num_threads: threads for the forward pass where there is no GPU. Several add up in another
            order than one, so labels, whose last bits must not depend on the cluster, take one.
    """

    def __init__(
        self, localizer: "ray.ObjectRef[Localizer]", config: LabelConfig, num_threads: int = 1
    ) -> None:
        self._num_threads = num_threads
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._localizer = ray.get(localizer)
        self._localizer.model.to(self._device, memory_format=torch.channels_last)  # type: ignore
        self._config = config

    def __call__(self, block: Batch) -> Batch:
        """The block with what :meth:`Localizer.locate` finds in place of pixels."""
        # Ray Data calls from another thread than it constructs in, and OpenMP's number of
        # threads belongs to the calling thread.
        torch.set_num_threads(self._num_threads)
        pixels = [block.pop(f"pixels_{k}") for k in range(len(self._config.scales))]
        return {**block, **self._locate(pixels, block)}

    @torch.inference_mode()
    def _locate(self, pixels: Sequence[np.ndarray], known: Batch) -> Batch:
        is_bf16 = self._config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bf16):
            return self._localizer.locate(self._views(pixels), known)

    def _views(self, pixels: Sequence[np.ndarray]) -> Iterator[View]:
        """The images at each scale, then mirrored."""
        for scale, squares in zip(self._config.scales, pixels, strict=True):
            batch = torch.tensor(squares).to(self._device, non_blocking=True)
            batch = encoders.normalise(batch)
            yield View(batch, scale, is_mirrored=False)
            if self._config.flip:
                yield View(batch.flip(3), scale, is_mirrored=True)


class Forward:
    """A job's actor on rows that are a batch each.

    Args:
        actor: made with ``arguments``.
        arguments: of it.
        is_split: give a row an image, so that what follows need not take a batch at a time.
    """

    def __init__(
        self, actor: Callable[..., BatchActor], arguments: tuple[Any, ...], *, is_split: bool
    ) -> None:
        self._actor = actor(*arguments)
        self._is_split = is_split

    def __call__(self, row: pa.Table) -> pa.Table:
        (batch,) = unpack(row)
        found = self._actor(batch)
        return pa.concat_tables(map(pack, split(found))) if self._is_split else pack(found)
