"""The stages as one Ray Data stream: its blocks, its order, and what each stage reserves."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data

from c2am_dist.config import LabelConfig
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling.stages import ModelActor, Provenance, decode_run, label_rows
from c2am_dist.method.c2am import C2AM

RUN_BATCHES = 8
"""Batches a decode task reads at least, if its shard holds them: only its last is partial."""
BLOCK_BYTES = 16 * 2**20
"""Decoded pixels to pass between tasks at a time: some ten milliseconds of copying."""
STORE_BLOCKS = 16
"""Blocks that fit into a node's object store at least, where a batch is no larger; fewer were
seen to spill while actors start and decoded blocks wait for them."""


def stream(
    row_groups: Sequence[RowGroup], config: LabelConfig, provenance: Provenance, model: C2AM
) -> ray.data.Dataset:
    """Label rows in the order of the input; no block holds rows of two shards."""
    assert config.size_px is not None
    sizes_px = [max(32, round(config.size_px * scale)) for scale in config.scales]
    runs = list(_runs(row_groups, min_rows=RUN_BATCHES * config.batch_size))
    decode = functools.partial(
        decode_run,
        sizes_px=sizes_px,
        batch_size=config.batch_size,
        max_pixels=config.max_megapixels * 1e6,
    )
    to_rows = functools.partial(label_rows, config=config, provenance=provenance)
    actors, threads, actor_options, task_options = _resources(config)
    dataset = ray.data.from_items(runs, override_num_blocks=len(runs))
    dataset.context.execution_options.preserve_order = True
    dataset.context.target_max_block_size = _block_bytes(
        sizes_px, config.batch_size, at_most=min(BLOCK_BYTES, _store_bytes() // STORE_BLOCKS)
    )
    return (
        dataset.map_batches(decode, batch_size=None, batch_format="pyarrow", **task_options)
        .map_batches(
            ModelActor,
            fn_constructor_args=(ray.put(model), config, provenance.polarity, threads),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=actors),
            **actor_options,
        )
        .map_batches(to_rows, batch_size=None, **task_options)  # type: ignore
    )


def _runs(row_groups: Sequence[RowGroup], *, min_rows: int) -> Iterator[dict[str, Any]]:
    """Consecutive row groups of one shard that hold ``min_rows`` rows, or reach its end."""
    indices: list[int] = []
    num_rows = 0
    for group, following in zip(row_groups, [*row_groups[1:], None], strict=True):
        indices.append(group.index)
        num_rows += group.num_rows
        if num_rows >= min_rows or following is None or following.uri != group.uri:
            yield {"uri": group.uri, "indices": indices, "num_rows": num_rows}
            indices, num_rows = [], 0


def _store_bytes() -> int:
    """The smallest object store in the cluster."""
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes()]
    return int(min(filter(None, stores)))


def _block_bytes(sizes_px: Sequence[int], batch_size: int, *, at_most: int) -> int:
    """The target that makes Ray Data cut its stream of batches between batches.

    Ray Data gathers batches until a block is larger than its target, and splits what is half
    as large again. A quarter of a batch less than k batches is exceeded by exactly k of them.
    """
    batch_bytes = batch_size * sum(3 * size_px**2 for size_px in sizes_px)
    num_batches = max(1, at_most // batch_bytes)
    return int((num_batches - 0.25) * batch_bytes)


def _resources(config: LabelConfig) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
    """Model actors, threads of each, and what an actor and a task of the other stages reserve.

    With GPUs, each has an actor unless told otherwise. Without, half the CPUs have one, and the
    actors' threads span them all: the forward pass needs most of the time, and decoding waits
    for it. Tasks then reserve half a CPU, so that on two CPUs every stage has its place.
    """
    available = ray.cluster_resources()
    cpus, gpus = int(available.get("CPU", 1)), available.get("GPU", 0)
    if gpus:
        actors = config.num_actors or int(gpus)
        return actors, 1, {"num_gpus": min(1.0, gpus / actors), "num_cpus": 1}, {"num_cpus": 1}
    actors = config.num_actors or max(1, cpus // 2)
    threads = max(1, cpus // actors)
    return actors, threads, {"num_cpus": min(1.0, cpus / 2 / actors)}, {"num_cpus": 0.5}
