from collections.abc import Sequence

import numpy as np
import pytest

from c2am_dist.labeling.pipeline import _block_bytes, _resources


@pytest.mark.parametrize(
    ("sizes_px", "batch_size"), [([224], 32), ([448], 16), ([112, 224, 448], 64), ([64], 4)]
)
def test_blocks_hold_whole_batches(ray_cluster: None, sizes_px: Sequence[int], batch_size: int):
    from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

    target = _block_bytes(sizes_px, batch_size, at_most=16 * 2**20)
    buffer = BlockOutputBuffer(OutputBlockSizeOption(target_max_block_size=target))
    batch = {
        f"pixels_{k}": np.zeros((batch_size, px, px, 3), np.uint8) for k, px in enumerate(sizes_px)
    }
    batch["image_id"] = np.array([f"n01498041/some-{i}" for i in range(batch_size)])
    rows = []
    for _ in range(5):
        buffer.add_batch(batch)
        rows += [block.num_rows for block in buffer.iter_ready_blocks()]
    assert all(num_rows % batch_size == 0 for num_rows in rows)


@pytest.mark.parametrize(
    ("num_actors", "use_gpu", "cpus", "gpus", "expected"),
    [
        (None, None, 8, 0, (8, 0.0)),
        (None, None, 32, 4, (4, 1.0)),
        (8, None, 32, 4, (8, 0.5)),
        (None, False, 32, 4, (32, 0.0)),
        (6, True, 0, 0, (6, 1.0)),
    ],
)
def test_actors_follow_from_the_cluster_unless_told_otherwise(
    num_actors, use_gpu, cpus, gpus, expected
):
    shares = _resources(num_actors, use_gpu, cpus=cpus, gpus=gpus)
    assert (shares.num_actors, shares.actor_gpus) == expected


@pytest.mark.parametrize(("use_gpu", "field"), [(None, "use_gpu"), (True, "num_actors")])
def test_a_cluster_scaled_to_zero_must_be_told_what_to_ask_for(use_gpu, field: str):
    with pytest.raises(ValueError, match=f"{field} must be given: the cluster has no"):
        _resources(None, use_gpu, cpus=0, gpus=0)


@pytest.mark.parametrize(
    ("num_actors", "use_gpu", "cpus", "gpus", "row_tasks"),
    [(8, True, 0, 0, 8), (8, False, 0, 0, 4), (None, None, 128, 8, 64), (None, None, 2, 0, 1)],
)
def test_rows_are_labeled_for_all_actors_also_while_no_cpu_is_there_yet(
    num_actors, use_gpu, cpus, gpus, row_tasks
):
    assert _resources(num_actors, use_gpu, cpus=cpus, gpus=gpus).row_tasks == row_tasks


@pytest.mark.parametrize(
    ("num_actors", "use_gpu", "cpus", "gpus", "row_tasks"),
    [(None, None, 16, 1, 16), (None, None, 2, 0, 2), (8, True, 0, 0, 8)],
)
def test_rows_that_are_slow_take_all_cpus(num_actors, use_gpu, cpus, gpus, row_tasks):
    found = _resources(num_actors, use_gpu, cpus=cpus, gpus=gpus, has_slow_rows=True)
    assert found.row_tasks == row_tasks
