"""How many trials run beside each other, and the CPUs of their workers: from numbers alone."""

import dataclasses
import math
from collections.abc import Sequence

from c2am_dist.config import TrainConfig, override
from c2am_dist.data.stream import DECODE_CPUS, READ_CPUS


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a sweep runs on."""

    node_cpus: tuple[float, ...]
    """Of each node that has any."""
    num_gpus: float = 0.0

    @property
    def num_cpus(self) -> float:
        return sum(self.node_cpus)


def num_concurrent(
    configs: Sequence[TrainConfig], cluster: Cluster, wanted: int | None = None
) -> int:
    """Trials at a time: what is wanted, or as many as there is room for, whichever they are.

    Raises:
        ValueError: what a config reserves for its workers leaves nothing to decode with.
    """
    number = wanted or min(_num_fitting(config, cluster) for config in configs)
    for config in configs:
        _refuse_too_many(config, cluster, number)
    return number


def with_share(
    config: TrainConfig, cluster: Cluster, number: int, *, is_wanted: bool
) -> TrainConfig:
    """The config with its workers' share of CPUs, where it leaves that open and is not alone.

    A run by itself takes half of all CPUs, and one on GPUs a CPU beside each.

    Args:
        config: a trial's.
        cluster: what it runs on.
        number: trials at a time.
        is_wanted: whether the number was asked for, rather than found by `num_concurrent`.
    """
    is_open = config.scaling.cpus_per_worker is None and cluster.num_cpus > 0
    if not is_open or number == 1 or _is_on_gpus(config, cluster):
        return config
    if is_wanted:
        share = cluster.num_cpus / 2 / number / config.scaling.max_workers
    else:  # more than half of a node: two workers on one would share its cores
        share = min(_large(cluster)) / 2 + 0.01
    return override(config, {"scaling.cpus_per_worker": max(0.01, round(share, 2))})


def _is_on_gpus(config: TrainConfig, cluster: Cluster) -> bool:
    use_gpu = config.scaling.use_gpu
    return cluster.num_gpus > 0 if use_gpu is None else use_gpu


def _num_fitting(config: TrainConfig, cluster: Cluster) -> int:
    """Trials of a config that the cluster has room for; one at least."""
    num_workers = config.scaling.max_workers
    if _is_on_gpus(config, cluster):
        # Workers, a task that decodes for each, and one that reads for all.
        cpus = num_workers * ((config.scaling.cpus_per_worker or 1.0) + DECODE_CPUS) + READ_CPUS
        number = min(cluster.num_gpus // num_workers, math.floor(cluster.num_cpus / cpus + 1e-9))
    else:
        # A worker's threads span all cores of its node: a second one there would gain nothing.
        number = len(_large(cluster)) // num_workers
    return max(1, int(number))


def _large(cluster: Cluster) -> list[float]:
    """The CPUs of nodes to train on: a small head node is none."""
    return [cpus for cpus in cluster.node_cpus if 2 * cpus >= max(cluster.node_cpus)]


def _refuse_too_many(config: TrainConfig, cluster: Cluster, number: int) -> None:
    cpus, num_workers = config.scaling.cpus_per_worker, config.scaling.min_workers
    if cpus is None or not cluster.num_cpus:  # a cluster scaled to zero: what it will be is unknown
        return
    needed = number * (num_workers * cpus + READ_CPUS + DECODE_CPUS)
    if needed > cluster.num_cpus + 1e-9:
        raise ValueError(
            f"scaling.cpus_per_worker: {number} trials at a time x {num_workers} workers x "
            f"{cpus:g} CPUs, and {READ_CPUS + DECODE_CPUS:g} a trial to read and decode, are "
            f"{needed:g} CPUs; the cluster has {cluster.num_cpus:g}"
        )
