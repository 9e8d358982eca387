"""Which image goes into which shard, and where shards may go."""

from pathlib import Path

import numpy as np
import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats import Blob, Item
from c2am_dist.data.shard_plan import cut, order, plan
from tests.files import lay_out
from tests.images import encoded, noise


def items_of(*sizes: int) -> list[Item]:
    return [Item(f"{n:03d}", Blob(f"{n:03d}.jpg", size)) for n, size in enumerate(sizes)]


def test_shards_are_near_their_target_and_hold_every_item_once():
    sizes = np.random.default_rng(1).integers(50, 150, 400).tolist()
    items = items_of(*sizes)
    shards = cut(items, shard_bytes=4000)
    assert [item for shard in shards for item in shard] == items
    assert all(3500 < sum(item.size_bytes for item in shard) < 4500 for shard in shards)


@pytest.mark.parametrize("sizes", [(1,), (5000, 1, 1), (1, 1, 5000), (0, 0, 0), (1, 5000, 1)])
def test_no_shard_is_planned_empty(sizes: tuple[int, ...]):
    shards = cut(items_of(*sizes), shard_bytes=1000)
    assert all(shards) and sum(len(shard) for shard in shards) == len(sizes)


def test_the_order_repeats_and_follows_the_seed():
    items = items_of(*range(50))
    assert order(items, 3) == order(items, 3)
    assert order(items, 3) != order(items, 4)
    assert sorted(order(items, 3), key=lambda item: item.image_id) == items
    assert order(items, None) == items


def test_a_folder_that_holds_files_is_refused_by_name(tmp_path: Path):
    source = lay_out(tmp_path / "in", {"a.jpg": encoded(noise((9, 9)))})
    output = lay_out(tmp_path / "out", {"old.parquet": b"x"})
    with pytest.raises(ValueError, match=r"out: must be empty.*old\.parquet"):
        plan(PrepareConfig(input=(str(source),), output=str(output)))


def test_what_is_not_given_or_not_there_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="input must be given"):
        plan(PrepareConfig(output="out"))
    with pytest.raises(ValueError, match="output must be given"):
        plan(PrepareConfig(input=("in",)))
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        plan(PrepareConfig(input=(str(tmp_path / "nowhere"),), output="out"))
