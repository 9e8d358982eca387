"""What crosses workers inside a training step: representations and BatchNorm statistics.

Both are differentiable sums over workers: with losses whose sum over workers is the global
loss (:func:`c2am_dist.method.c2am.c2am_loss`), each worker's backward pass yields the gradient
of that sum. DistributedDataParallel then averages parameter gradients over workers, so a loop
under it multiplies its local loss by the number of workers.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _num_workers() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(rows: Float[Tensor, "m c"]) -> Float[Tensor, "n c"]:
    """The rows of every worker, in rank order; gradients flow back to the workers they came from.

    Every worker must pass as many rows. A worker's own rows start at rank * m. Without a
    process group, or with one worker, the rows themselves.
    """
    return rows if _num_workers() == 1 else _AllGather.apply(rows)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((_num_workers() * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (grad,) = grad_outputs
        own = grad.new_empty((len(grad) // _num_workers(), *grad.shape[1:]))
        dist.reduce_scatter_tensor(own, grad.contiguous())  # each worker's rows, summed
        return own


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """The module with each BatchNorm2d in it replaced by one that spans all workers.

    On a GPU by torch's, which refuses CPU tensors, and on a CPU by the one below: move the
    module to its device first. Parameters and buffers stay the same objects under the same
    names. In evaluation mode, and so for frozen BatchNorm, nothing changes. Every worker must
    pass as many images.
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
            output, mean, var = _NormaliseAcrossWorkers.apply(
                input, self.weight, self.bias, self.eps
            )
        with torch.no_grad():
            num_values = input.numel() // input.shape[1] * _num_workers()
            unbiased = var * num_values / max(num_values - 1, 1)
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return output


class _NormaliseAcrossWorkers(torch.autograd.Function):
    """Batch normalisation with the statistics of all workers' images; n c h w."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Means of equal parts average exactly, and deviations from their own mean do not cancel
        # as E[x^2] - E[x]^2 does: var = mean of the parts' var + var of the parts' means.
        var, mean = torch.var_mean(x.to(weight.dtype), dim=(0, 2, 3), correction=0)
        parts = mean.new_empty(_num_workers() * 2 * len(mean))
        dist.all_gather_into_tensor(parts, torch.cat([mean, var]))
        parts = parts.view(_num_workers(), 2, len(mean))
        mean = parts[:, 0].mean(dim=0)
        var = parts[:, 1].mean(dim=0) + (parts[:, 0] - mean).square().mean(dim=0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad = grad_outputs[0]  # mean and variance are not differentiable
        x, weight, mean, inverse_std = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        normalised = (x - mean.view(shape)) * inverse_std.view(shape)
        grad_bias = grad.to(weight.dtype).sum(dim=(0, 2, 3))
        grad_weight = (grad * normalised).sum(dim=(0, 2, 3))
        # Both depend on every worker's images, so every worker's gradients meet here.
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)
        num_values = x.numel() // x.shape[1] * _num_workers()
        mean_grad, mean_grad_normalised = (sums / num_values).view(2, *shape)
        centred = grad - mean_grad - normalised * mean_grad_normalised
        grad_x = centred * (weight * inverse_std).view(shape)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None
