"""The maps of a fixed sample of training images, judged on all workers together."""

import dataclasses
from typing import TYPE_CHECKING

import ray.train
import torch
import torch.distributed as dist
from torch import Tensor, nn

from c2am_dist.data import stream
from c2am_dist.method import activation, encoders
from c2am_dist.training.batch import Autocast

if TYPE_CHECKING:
    from c2am_dist.training.loop import Job


CELL_PX = 16
"""Pixels a map cell spans: the encoders' output stride."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MapSurvey:
    """What the maps of the sample say; all workers hold the same."""

    polarity: str
    """What raw P highlights: ``foreground`` or ``background``; empty without a map."""
    polarity_margin: float
    """Share of the votes beyond one half, in [0, 0.5]."""
    border_lock: float
    """See `activation.border_lock`, in [0, 1]."""
    deviation: float
    """Mean over images of P's standard deviation within the map."""
    is_collapsed: bool

    @classmethod
    def none(cls) -> "MapSurvey":
        """For methods without a map."""
        return cls(
            polarity="", polarity_margin=0.0, border_lock=0.0, deviation=0.0, is_collapsed=False
        )


def survey(job: "Job", model: nn.Module, autocast: Autocast) -> MapSurvey:
    """Polarity by vote, collapse and border lock, the same on every worker.

    Each worker maps its share of ``run.polarity_images`` images, in inference mode as labeling
    will, so that the polarity stored is that of the maps labeling sees.
    """
    maps, maps_of_shifted = torch.cat(_gather(_local_maps(job, model, autocast)), dim=1)
    polarity, margin = activation.vote(int(activation.border_votes(maps).sum()), len(maps))
    return MapSurvey(
        polarity=polarity.value,
        polarity_margin=margin,
        border_lock=activation.border_lock(maps, maps_of_shifted),
        deviation=float(maps.std(dim=(1, 2, 3)).mean()),
        is_collapsed=activation.is_collapsed(maps),
    )


@torch.no_grad()
def _local_maps(job: "Job", model: nn.Module, autocast: Autocast) -> Tensor:
    """Maps of this worker's images as they are, and of the same images rolled around."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    data, device = job.config.data, next(model.parameters()).device
    sample = stream.sample(
        job.row_groups,
        num_images=job.config.run.polarity_images,
        rank=rank,
        num_workers=world_size,
        data=data,
    )
    size = -(-job.config.optim.batch_size // (world_size * job.config.optim.accumulation))

    def map_of(batch: Tensor) -> Tensor:
        with autocast():
            return model(batch)[2].float().cpu()

    pairs = []
    model.eval()
    for start in range(0, len(sample), size):
        pixels = torch.stack([torch.from_numpy(i) for i in sample[start : start + size]])
        batch = encoders.normalise(pixels.to(device))
        shifted = activation.shift_half(batch, cell_px=CELL_PX)
        pairs.append(torch.stack([map_of(batch), map_of(shifted)]))
    model.train()
    return torch.cat(pairs, dim=1) if pairs else torch.empty(2, 0, 1, 1, 1)


def _gather(maps: Tensor) -> list[Tensor]:
    """The maps of every worker; one that had no image left contributes none."""
    if not dist.is_initialized():
        return [maps]
    gathered: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, maps)
    return [part for part in gathered if part is not None and part.shape[1]]
