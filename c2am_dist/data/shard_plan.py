"""Which image of a data set goes into which shard: known before anything is read or written.

It follows from the listing and the config alone, so the shards are the same bytes however many
workers write them.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence

import numpy as np

from c2am_dist import __version__, storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data import formats
from c2am_dist.data.formats import Item

_MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard before it is written."""

    uri: str
    items: tuple[Item, ...]
    row_group_bytes: int
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    output: str
    shards: tuple[ShardPlan, ...]

    @property
    def num_images(self) -> int:
        return sum(len(shard.items) for shard in self.shards)


def plan(config: PrepareConfig) -> Plan:
    """The shards to write; needs no Ray, and writes nothing.

    Raises:
        FileNotFoundError: the input, its annotations or the masks are not there.
        ValueError: the input holds no image or one twice; the output folder is not empty; a
            flag is missing. The message names the culprit.
    """
    for field in ("input", "output"):
        if not getattr(config, field):
            raise ValueError(f"{field} must be given (--{field} URI)")
    held = storage.walk(config.output)
    if held:
        raise ValueError(
            f"{config.output}: must be empty, but holds {len(held)} files, {held[0].uri} among them"
        )
    items = order(formats.list_items(config), config.shuffle_seed)
    shards = cut(items, shard_bytes=round(config.shard_mib * _MIB))
    names = [f"shard-{index:05d}-of-{len(shards):05d}.parquet" for index in range(len(shards))]
    kept = ("format", "split", "draw_masks", "shard_mib", "row_group_mib", "shuffle_seed")
    settings = {name: getattr(config, name) for name in kept}  # no places: they would differ
    metadata = {
        "c2am_dist.version": __version__,
        "c2am_dist.prepare": json.dumps(settings, sort_keys=True),
    }
    return Plan(
        output=config.output,
        shards=tuple(
            ShardPlan(
                uri=storage.join(storage.absolute(config.output), name),
                items=tuple(shard),
                row_group_bytes=round(config.row_group_mib * _MIB),
                metadata=metadata,
            )
            for name, shard in zip(names, shards, strict=True)
        ),
    )


def order(items: Sequence[Item], seed: int | None) -> list[Item]:
    """The items in an order drawn from the seed; as they are without one."""
    if seed is None:
        return list(items)
    return [items[index] for index in np.random.default_rng(seed).permutation(len(items))]


def cut(items: Sequence[Item], *, shard_bytes: int) -> list[list[Item]]:
    """The items in runs of nearly equal size, each as near to ``shard_bytes`` as can be."""
    ends = np.cumsum([item.size_bytes for item in items])
    total = int(ends[-1])
    num_shards = max(1, round(total / shard_bytes))
    bounds = np.searchsorted(ends, total * np.arange(1, num_shards) / num_shards) + 1
    bounds = [0, *np.unique(bounds[bounds < len(items)]).tolist(), len(items)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds)]
