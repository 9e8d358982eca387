"""The stages as one Ray Data stream: its blocks, its order, what each reserves and will take."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data

from c2am_dist import storage
from c2am_dist.assumptions import LABEL_ROW_CPU_S, REFINE_CPU_S, PlanConfig
from c2am_dist.config import LabelConfig
from c2am_dist.data import placement
from c2am_dist.data.row_files import SOME_CPU
from c2am_dist.data.shards import RowGroup
from c2am_dist.forecast import Cluster, Forecast, ImageSet, Workers, labeling
from c2am_dist.labeling.actors import BatchActor, Forward
from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.decode import Decoding, decode
from c2am_dist.labeling.rows import make_rows
from c2am_dist.method.flops import footprint

RUN_BATCHES = 8
"""Batches a decode task reads at least, if its shard holds them: only its last is partial."""
BLOCK_BYTES = 16 * 2**20
"""Decoded pixels to pass between tasks at a time: some ten milliseconds of copying."""
SLOW_BLOCK_BYTES = 256 * 2**10
"""Instead where rows are slow: some photos of 100 kB and their maps, seconds of a dense CRF."""
STORE_BLOCKS = 64
"""Blocks that fit into a node's object store at least, where a batch is no larger; fewer were
seen to spill while actors start and decoded blocks wait for them."""
LOT_SHARDS, LOT_SHARDS_AN_ACTOR, LOT_SHARDS_AT_MOST = 2000, 1000, 20_000
"""Shards in one Ray Data execution, in which actors start anew: minutes of work for the fastest of
them. At most so many, since the driver holds 7 kB a shard of its row groups (measured, of 32), and
some kB of each of its runs that is planned."""


class Shares(Protocol):
    """What a job says of its share of the cluster."""

    @property
    def num_actors(self) -> int | None: ...

    @property
    def use_gpu(self) -> bool | None: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a job does to every image, and what its files say: all in which jobs differ."""

    decoding: Decoding
    actor: Callable[..., BatchActor]
    """Made with ``arguments`` on each actor; turns the pixels of a batch into what is found."""
    arguments: tuple[Any, ...]
    rows: Callable[[Batch], pa.Table]
    """The rows of a batch."""
    schema: pa.Schema
    metadata: Mapping[str, str]
    """Of every file."""
    shares: Shares
    keeps_row_groups: bool = False
    """Cut each file into row groups as its shard is: what trains on both reads no more than it
    needs of either."""
    has_slow_rows: bool = False
    """Rows take a CPU some tenths of a second each: all CPUs make them, some images at a time."""


def stream(row_groups: Sequence[RowGroup], work: Work) -> ray.data.Dataset:
    """A job's rows in the order of the input; no block holds rows of two shards."""
    batch_size, sizes_px = work.decoding.batch_size, work.decoding.sizes_px
    runs = list(_runs(row_groups, min_rows=RUN_BATCHES * batch_size))
    shares = find_resources(work.shares, has_slow_rows=work.has_slow_rows)
    dataset = ray.data.from_items(runs, override_num_blocks=len(runs))
    dataset.context.execution_options.preserve_order = True
    at_most = min(BLOCK_BYTES, _store_bytes() // STORE_BLOCKS)
    block_bytes = _block_bytes(sizes_px, batch_size, at_most=at_most)
    dataset.context.target_max_block_size = SLOW_BLOCK_BYTES if work.has_slow_rows else block_bytes
    num_blocks = max(len(runs), _slow_blocks(row_groups) if work.has_slow_rows else 0)
    if shares.actor_gpus:
        placement.prefer_nodes_without_gpu(dataset)
    return (
        dataset.map_batches(
            functools.partial(decode, decoding=work.decoding),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=shares.decode_cpus,
        )
        .map_batches(
            Forward,
            fn_constructor_args=(work.actor, work.arguments),
            fn_constructor_kwargs={"is_split": work.has_slow_rows},
            batch_size=1,  # row, that is a batch
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(shares.num_actors, len(runs))),
            num_cpus=shares.actor_cpus,
            num_gpus=shares.actor_gpus,
        )
        .map_batches(
            functools.partial(make_rows, rows=work.rows),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=min(shares.row_tasks, num_blocks)),
            num_cpus=SOME_CPU,
        )
    )


def forecast(
    images: ImageSet,
    config: LabelConfig,
    encoder: str,
    plan: PlanConfig,
    cluster: Cluster,
    *,
    flops_of: Callable[[int], float] | None = None,
) -> Forecast:
    """What the stream would take to label these images.

    Args:
        images: to label.
        config: of the job.
        encoder: the model's.
        plan: what is assumed.
        cluster: what it runs on.
        flops_of: those of the model on one image by its side; C2AM's if None.
    """
    sizes_px = config.sizes_px
    flops_of = flops_of or (lambda px: footprint(encoder, px).flops)
    shares = _resources(
        config.num_actors, config.use_gpu, cpus=cluster.num_cpus, gpus=cluster.num_gpus
    )
    workers = Workers(
        number=shares.num_actors,
        on_gpus=shares.actor_gpus > 0,
        num_decode_cpus=max(1.0, cluster.num_cpus - shares.num_actors * shares.actor_cpus),
        cluster=cluster,
        plan=plan,
    )
    flops = (1 + config.flip) * sum(map(flops_of, sizes_px))
    store_bytes = (cluster.store_bytes or 2**60) // cluster.num_machines
    at_most = min(BLOCK_BYTES, store_bytes // STORE_BLOCKS)
    block_bytes = _block_bytes(sizes_px, config.batch_size, at_most=at_most)
    return labeling(
        storage.name(config.output),
        images,
        workers,
        flops=flops,
        pixel_bytes=sum(3 * px**2 for px in sizes_px),
        block_bytes=block_bytes,
        num_lots=-(-images.num_files // lot_shards(shares.num_actors)),
        row_cpu_s=LABEL_ROW_CPU_S + REFINE_CPU_S[config.refine_cues],
    )


def lot_shards(num_actors: int) -> int:
    """How many shards to label in one execution."""
    return min(LOT_SHARDS_AT_MOST, max(LOT_SHARDS, LOT_SHARDS_AN_ACTOR * num_actors))


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


def _slow_blocks(row_groups: Sequence[RowGroup]) -> int:
    """About how many blocks there are of SLOW_BLOCK_BYTES, at least: files alone are counted."""
    num_rows = sum(group.num_rows for group in row_groups)
    image_bytes = max(1, sum(group.num_bytes for group in row_groups) // num_rows)
    return num_rows // (SLOW_BLOCK_BYTES // image_bytes + 1)


def _store_bytes() -> int:
    """The smallest object store in the cluster."""
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes()]
    return int(min(filter(None, stores)))


def _block_bytes(sizes_px: Sequence[int], batch_size: int, *, at_most: int) -> int:
    """The target that makes Ray Data's blocks hold as many batches as fit, and one at least.

    It gathers batches until a block is larger than its target, and splits what is half as large
    again. A quarter of a batch less than k batches is exceeded by exactly k of them.
    """
    batch_bytes = batch_size * sum(3 * size_px**2 for size_px in sizes_px)
    num_batches = max(1, at_most // batch_bytes)
    return int((num_batches - 0.25) * batch_bytes)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What each stage may take of the cluster."""

    num_actors: int
    actor_cpus: float
    actor_gpus: float
    decode_cpus: float
    row_tasks: int
    """Tasks that label rows: one for each GPU at least, whose maps take a CPU a millisecond each;
    where rows are slow, one for each CPU. They reserve next to no CPU: decode tasks keep theirs
    while they wait for the actors, and rows that waited for them in turn stood still (seen on two
    CPUs). So rows and decoding share the CPUs as the system deals them, and actors with a GPU,
    which need little of one, get theirs beside both."""


def find_resources(shares: Shares, *, has_slow_rows: bool = False) -> Resources:
    """Shares of the cluster as it is now; raises as :func:`_resources`."""
    cluster = ray.cluster_resources()
    cpus, gpus = int(cluster.get("CPU", 0)), cluster.get("GPU", 0)
    return _resources(
        shares.num_actors, shares.use_gpu, cpus=cpus, gpus=gpus, has_slow_rows=has_slow_rows
    )


def _resources(
    num_actors: int | None,
    use_gpu: bool | None,
    *,
    cpus: int,
    gpus: float,
    has_slow_rows: bool = False,
) -> Resources:
    """Shares of a cluster of so many CPUs and GPUs.

    With GPUs, each has an actor unless told otherwise, and tasks decode for it. Without, each
    CPU has one. Decoding then reserves what an actor does, which makes Ray Data fuse the two: an
    actor decodes its own images, and no thread waits for one that decoding has displaced. On two
    CPUs that was 1.6 times as fast as one actor of two threads beside decode tasks. Half of the
    CPUs stay unreserved, for the tasks that begin the stream.

    Raises:
        ValueError: the cluster has scaled to zero and the config does not say what to ask for.
    """
    if use_gpu is None:
        if not cpus:
            raise ValueError("use_gpu must be given: the cluster has no worker node yet")
        use_gpu = gpus > 0
    num_actors = num_actors or (int(gpus) if use_gpu else cpus)
    if not num_actors:
        raise ValueError(
            f"num_actors must be given: the cluster has no {'GPU' if use_gpu else 'CPU'} yet"
        )
    if use_gpu:
        actor_cpus, decode_cpus = 0.5, 1.0
    else:
        actor_cpus = decode_cpus = min(1.0, cpus / 2 / num_actors) or 1.0
    # Of a cluster that still has to start, the actors are all that is known.
    row_tasks = cpus or num_actors
    if not has_slow_rows:
        row_tasks = max(cpus // 2, num_actors) if use_gpu else max(1, row_tasks // 2)
    return Resources(
        num_actors=num_actors,
        actor_cpus=actor_cpus,
        actor_gpus=min(1.0, gpus / num_actors) or 1.0 if use_gpu else 0.0,
        decode_cpus=decode_cpus,
        row_tasks=row_tasks,
    )
