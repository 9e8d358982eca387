"""The stream of a run, dealt out among its workers.

Apart from stream.py, whose tasks have no use for Ray Train and would take a second to load it.
"""

from collections.abc import Callable
from typing import Any

import ray.train
from ray.data import DataIterator, Dataset, ExecutionOptions


def execution_options() -> ExecutionOptions:
    """What the split relies on: blocks leave each operator in the order they entered it."""
    return ExecutionOptions(preserve_order=True)


class Feed(ray.train.DataConfig):
    """Makes a run's stream whenever its workers (re)start, and deals it out among them.

    Only then are known how many workers there are and the step to go on from, and Ray Train asks
    here. Its own way would hand blocks to workers on the same node first, in another order.

    Args:
        make: the stream for so many workers.
    """

    def __init__(self, make: Callable[[int], Dataset]) -> None:
        super().__init__()
        self._make = make

    def configure(
        self, datasets: Any, world_size: int, *unused: Any, **also_unused: Any
    ) -> list[dict[str, DataIterator]]:
        """The split of every worker, under the names in ``datasets``, whose values are unused."""
        dataset = self._make(world_size)
        dataset.context.execution_options = execution_options()
        splits = dataset.streaming_split(world_size, equal=True)
        return [dict.fromkeys(datasets, split) for split in splits]
