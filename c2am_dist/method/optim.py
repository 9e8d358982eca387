"""Parameter groups, the step, and the learning-rate schedule."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from c2am_dist.method.encoders import NORMS


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    head_lr_factor: float,
    weight_decay: float,
    train_norm_affine: bool,
) -> list[dict[str, Any]]:
    """Two groups for a torch optimizer: the encoder's parameters, and all others, the head's.

    Call it before wrapping the model for distribution: parameters left out stop requiring
    gradients, so that nothing computes or reduces them.

    Args:
        model: has an attribute ``encoder`` (C2AM or a classifier).
        lr: learning rate of the encoder.
        head_lr_factor: the head learns at ``lr`` times this.
        weight_decay: L2 penalty of both groups.
        train_norm_affine: whether BatchNorm's weights and biases, the head's included, train.
            The published code leaves them out; they then keep their initial values.
    """
    if not train_norm_affine:
        for module in model.modules():
            if isinstance(module, NORMS):
                module.requires_grad_(False)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    encoder = [p for name, p in trained if name.startswith("encoder.")]
    head = [p for name, p in trained if not name.startswith("encoder.")]
    return [
        {"params": encoder, "lr": lr, "weight_decay": weight_decay},
        {"params": head, "lr": lr * head_lr_factor, "weight_decay": weight_decay},
    ]


def clipped_step(optimizer: torch.optim.Optimizer, *, max_norm: float | None) -> None:
    """A step of the optimizer, after which no gradient is left.

    Args:
        optimizer: of all parameters that train.
        max_norm: given, gradients are first scaled down to this norm, over all parameters
            together, where theirs is larger.
    """
    if max_norm is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, max_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def polynomial_lr(step: int, steps: int, power: float) -> float:
    """The factor on every learning rate at a step, (1 - step / steps) ** power, in [0, 1].

    0 from step ``steps`` on, unless the power is 0. Source: METHODS.md (power 0.9).

    Raises:
        ValueError: ``steps`` is not positive or ``step`` is negative.
    """
    if steps < 1 or step < 0:
        raise ValueError(f"step {step} of {steps} is not on a schedule")
    return (1 - min(step, steps) / steps) ** power


def stepped_lr(epoch: float, decay_epochs: Sequence[float], factor: float) -> float:
    """The factor on every learning rate at a position: ``factor`` for each epoch passed.

    Args:
        epoch: position in the run; 1.5 is in the middle of the second epoch.
        decay_epochs: positions from which on the rate is lower.
        factor: by how much, each time.
    """
    return factor ** sum(epoch >= passed for passed in decay_epochs)
