"""Which failures of training are final, and what the others deserve: a restart of the workers."""

import logging
from typing import Any

import ray.train
import torch


class TrainingStopped(ValueError):
    """Training cannot go on: the loss is not finite, the map has collapsed, memory is short."""


class NoRepetition(ray.train.UserCallback):
    """Ends training on what a restart of the workers would only run into again.

    Lost workers, nodes and connections raise other errors, and those do deserve a restart.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = getattr(error, "cause", None) or error  # a task's error comes wrapped
            if final := _final(cause):
                logging.disable()  # this is Ray's controller, and the driver reports the error
                raise final from cause


def _final(error: BaseException) -> ValueError | OSError | None:
    """The error to end training with, or None where a restart may help."""
    # PyTorch has no class for what a CPU's allocator says.
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return TrainingStopped(
            "out of memory: lower optim.batch_size, or raise optim.accumulation "
            f"({str(error).strip().splitlines()[0]})"
        )
    is_lost = isinstance(error, ConnectionError | TimeoutError)
    return error if isinstance(error, ValueError | OSError) and not is_lost else None
