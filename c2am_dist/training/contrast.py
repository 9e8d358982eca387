"""C²AM's gradients: the contrast of a whole global batch, whatever it is cut into.

The loss sees matrices of the global batch; gathering them from the workers happens here,
between model and loss. DistributedDataParallel averages gradients over workers, so a loss
that is a sum over workers is multiplied by their number.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from c2am_dist import distributed
from c2am_dist.config import LossConfig, TrainConfig
from c2am_dist.data import plan
from c2am_dist.method.c2am import C2AM, C2AMLoss, c2am_loss
from c2am_dist.method.encoders import build_encoder, running_statistics_kept
from c2am_dist.training.batch import Autocast, Batch, without_sync


class ContrastiveMethod:
    """C2AM: contrast of foreground and background over the global batch."""

    def build(self, config: TrainConfig, *, num_classes: int) -> C2AM:
        return C2AM(build_encoder(config.model.encoder), head_init=config.model.head_init)

    def backward(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        config: TrainConfig,
        autocast: Autocast,
    ) -> dict[str, Tensor]:
        images = batch.images
        if config.optim.accumulation == 1:
            with autocast():
                foreground, background, activation = model(images)
            losses, scale = _contrast(foreground, background, config.loss, config.optim.batch_size)
            (losses.total * scale).backward()
        else:
            losses, scale, activation = _accumulate(model, images, config, autocast)
        logged = {name: term.detach() * scale for name, term in losses._asdict().items()}
        activation = activation.detach().float()
        return {
            "loss": losses.total.detach() * scale,
            **logged,
            "activation_mean": activation.mean(),
            "activation_std": activation.std(),
        }


def _contrast(
    foreground: Tensor, background: Tensor, loss: LossConfig, batch_size: int
) -> tuple[C2AMLoss, int]:
    """This worker's rows of the loss, and the factor that makes their mean the whole loss."""
    foreground, background = foreground.float(), background.float()
    if loss.contrast == "worker":  # the published code's objective: it changes with the workers
        foreground_all, background_all, row_offset, scale = foreground, background, 0, 1
    else:
        scale = dist.get_world_size() if dist.is_initialized() else 1
        sizes = plan.part_sizes(batch_size, scale)
        foreground_all = distributed.all_gather(foreground, sizes)
        background_all = distributed.all_gather(background, sizes)
        row_offset = sum(sizes[: dist.get_rank()]) if scale > 1 else 0
    losses = c2am_loss(
        foreground,
        background,
        foreground_all,
        background_all,
        alpha=loss.alpha,
        row_offset=row_offset,
        rank_scope=loss.rank_scope,
    )
    return losses, scale


def _accumulate(
    model: nn.Module, images: Tensor, config: TrainConfig, autocast: Autocast
) -> tuple[C2AMLoss, int, Tensor]:
    """Gradients of the contrast over all micro-batches, holding one's activations at a time.

    First every micro-batch runs without a graph, and the loss of all their representations
    gives the gradient of each; then each runs again and back-propagates its share (Gao et
    al. 2021, "GradCache", arXiv:2101.06983). The encoder runs forward twice; the contrast
    spans the same pairs as without accumulation. BatchNorm in training mode, the head's always,
    normalises each micro-batch by itself: in that, and only that, gradients differ.
    """
    parts = images.tensor_split(config.optim.accumulation)
    with torch.no_grad(), autocast(), running_statistics_kept([model]):
        cached = [model(part) for part in parts]
    foreground, background, activation = (torch.cat(pieces) for pieces in zip(*cached, strict=True))
    foreground = foreground.float().requires_grad_()
    background = background.float().requires_grad_()
    losses, scale = _contrast(foreground, background, config.loss, config.optim.batch_size)
    gradients = torch.autograd.grad(losses.total * scale, (foreground, background))
    shares = zip(*(gradient.tensor_split(len(parts)) for gradient in gradients), strict=True)
    for position, (part, share) in enumerate(zip(parts, shares, strict=True)):
        is_last = position == len(parts) - 1
        with without_sync(model, unless=is_last):
            with autocast():
                outputs = model(part)[:2]
            torch.autograd.backward([output.float() for output in outputs], share)
    return losses, scale, activation
