"""Which nodes of a cluster the tasks of a stream go to."""

import warnings

import ray.data
from ray.util.annotations import RayDeprecationWarning


def prefer_nodes_without_gpu(dataset: ray.data.Dataset) -> None:
    """Tasks of the dataset fill the nodes that have no GPU first, and then idle CPUs of the others.

    That is Ray's own rule. Ray Data spreads tasks over all nodes instead, whatever they have.
    """
    with warnings.catch_warnings():  # of 2027; nothing else says it yet, and versions are pinned
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset.context.scheduling_strategy = "DEFAULT"
