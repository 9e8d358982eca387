"""What crosses workers inside a training step: representations and BatchNorm statistics.

Both are differentiable sums over workers: with losses whose sum over workers is the global
loss (:func:`c2am_dist.method.c2am.c2am_loss`), each worker's backward pass yields the gradient
of that sum. DistributedDataParallel then averages parameter gradients over workers, so a loop
under it multiplies its local loss by the number of workers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _num_workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(rows: Float[Tensor, "m c"], sizes: Sequence[int]) -> Float[Tensor, "n c"]:
    """The rows of every worker, in rank order; gradients flow back to the workers they came from.

    Without a process group, or with one worker, the rows themselves.

    Args:
        rows: this worker's.
        sizes: how many rows each worker passes, in rank order, the same on all.
    """
    return rows if _num_workers() == 1 else _AllGather.apply(rows, tuple(sizes))


class _AllGather(torch.autograd.Function):
    """Every worker sends as many rows as the largest part has, since collectives want that."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        longest = max(sizes)
        sent = F.pad(rows, (0, 0, 0, longest - len(rows)))
        gathered = rows.new_empty((len(sizes) * longest, *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, sent.contiguous())
        if min(sizes) == longest:
            return gathered
        parts = gathered.split(longest)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        sizes, longest = ctx.sizes, max(ctx.sizes)
        if min(sizes) < longest:
            parts = zip(grad.split(sizes), sizes, strict=True)
            grad = torch.cat([F.pad(part, (0, 0, 0, longest - size)) for part, size in parts])
        own = grad.new_empty((longest, *grad.shape[1:]))
        dist.reduce_scatter_tensor(own, grad.contiguous())  # each worker's rows, summed
        return own[: sizes[dist.get_rank()]], None


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """The module with each BatchNorm2d in it replaced by one that spans all workers.

    On a GPU by torch's, which refuses CPU tensors, and on a CPU by the one below: move the
    module to its device first. Parameters and buffers stay the same objects under the same
    names. In evaluation mode, and so for frozen BatchNorm, nothing changes. Workers may pass
    different numbers of images.
    """
    if isinstance(module, nn.BatchNorm2d):
        if module.weight.is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(module)
        synced = _SyncBatchNorm(module.num_features, module.eps, module.momentum)
        synced.weight, synced.bias = module.weight, module.bias
        synced.running_mean, synced.running_var = module.running_mean, module.running_var
        synced.num_batches_tracked = module.num_batches_tracked
        return synced.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batchnorm(child))
    return module


class _SyncBatchNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or _num_workers() == 1:
            return super().forward(input)
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        with torch.autocast(input.device.type, enabled=False):
            output, mean, var, count = _NormaliseAcrossWorkers.apply(
                input, self.weight, self.bias, self.eps
            )
        with torch.no_grad():
            unbiased = var * count / (count - 1).clamp(min=1)
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return output


class _NormaliseAcrossWorkers(torch.autograd.Function):
    """Batch normalisation with the statistics of all workers' images; n c h w."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Deviations from each part's own mean do not cancel as E[x^2] - E[x]^2 does: var = mean
        # of the parts' var + var of the parts' means, each part weighted by its size.
        var, mean = torch.var_mean(x.to(weight.dtype), dim=(0, 2, 3), correction=0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        own = torch.cat([count, mean, var])
        parts = own.new_empty(_num_workers() * len(own))
        dist.all_gather_into_tensor(parts, own)
        counts, means, variances = parts.view(_num_workers(), -1).split([1, *[len(mean)] * 2], 1)
        count = counts.sum()
        share = counts / count
        mean = (share * means).sum(dim=0)
        var = (share * (variances + (means - mean).square())).sum(dim=0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), count)
        ctx.mark_non_differentiable(mean, var, count)
        output = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        return output, mean, var, count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad = grad_outputs[0]  # mean, variance and count are not differentiable
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        normalised = (x - mean.view(shape)) * inverse_std.view(shape)
        grad_bias = grad.to(weight.dtype).sum(dim=(0, 2, 3))
        grad_weight = (grad * normalised).sum(dim=(0, 2, 3))
        # Both depend on every worker's images, so every worker's gradients meet here.
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)
        mean_grad, mean_grad_normalised = (sums / count).view(2, *shape)
        centred = grad - mean_grad - normalised * mean_grad_normalised
        grad_x = centred * (weight * inverse_std).view(shape)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None
