"""The maps of a fixed sample of training images, judged on all workers together."""

import dataclasses
from typing import TYPE_CHECKING

import ray.train
import torch
import torch.distributed as dist
from torch import Tensor, nn

from c2am_dist.data import stream
from c2am_dist.method import activation, images

if TYPE_CHECKING:
    from c2am_dist.training.loop import Job


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MapSurvey:
    polarity: str
    polarity_margin: float
    border_lock: float
    deviation: float
    is_collapsed: bool

    @classmethod
    def none(cls) -> "MapSurvey":
        """For methods without a map."""
        return cls(
            polarity="", polarity_margin=0.0, border_lock=0.0, deviation=0.0, is_collapsed=False
        )


def survey(job: "Job", model: nn.Module) -> MapSurvey:
    """Polarity by vote, collapse and border lock, the same on every worker.

    Each worker maps its share of ``run.polarity_images`` images, in inference mode as labeling
    will, so that the polarity stored is that of the maps labeling sees.
    """
    maps = torch.cat(_gather(_local_maps(job, model)))
    polarity, margin = activation.vote(int(activation.border_votes(maps).sum()), len(maps))
    return MapSurvey(
        polarity=polarity.value,
        polarity_margin=margin,
        border_lock=activation.border_lock(activation.orient(maps, polarity)),
        deviation=float(maps.std(dim=(1, 2, 3)).mean()),
        is_collapsed=activation.is_collapsed(maps),
    )


@torch.no_grad()
def _local_maps(job: "Job", model: nn.Module) -> Tensor:
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    data, device = job.config.data, next(model.parameters()).device
    sample = stream.sample(job.row_groups, num_images=job.config.run.polarity_images, data=data)
    size = job.config.optim.batch_size // (world_size * job.config.optim.accumulation)
    is_mixed = job.config.optim.precision == "bf16"
    maps = []
    model.eval()
    for start in range(rank * size, len(sample), world_size * size):
        pixels = torch.stack([torch.from_numpy(i) for i in sample[start : start + size]])
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            maps.append(model(images.normalise(pixels.to(device)))[2].float().cpu())
    model.train()
    return torch.cat(maps) if maps else torch.empty(0, 1, 1, 1)


def _gather(maps: Tensor) -> list[Tensor]:
    if not dist.is_initialized():
        return [maps]
    gathered: list[Tensor | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, maps)
    return [part for part in gathered if part is not None and len(part)]
