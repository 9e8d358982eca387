from collections import Counter

import numpy as np
import pytest

from c2am_dist.data import plan
from c2am_dist.data.shards import RowGroup

GROUPS = [
    RowGroup(f"{shard}.parquet", index, 7 + shard) for shard in range(3) for index in range(4)
]
NUM_IMAGES = sum(group.num_rows for group in GROUPS)


def _rows(windows, seed: int = 0) -> list[tuple[str, int, int]]:
    """The images of the windows in training order, as (file, row group, row)."""
    rows = []
    for window in windows:
        table = [(g.uri, g.index, row) for g in window.row_groups for row in range(g.num_rows)]
        rows += [table[i] for i in window.order(seed)]
    return rows


def _windows(*, start_step: int = 0, total_steps: int = 18, seed: int = 0, batch_size: int = 10):
    return plan.Windows(
        row_groups=GROUPS,
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        total_steps=total_steps,
        shuffle_images=25,
    )


def test_an_epoch_holds_every_image_at_most_once_and_only_the_remainder_is_left_out():
    per_epoch = plan.steps_per_epoch(GROUPS, batch_size=10)
    assert per_epoch == NUM_IMAGES // 10
    rows = _rows(_windows(total_steps=per_epoch))
    assert len(rows) == per_epoch * 10
    assert max(Counter(rows).values()) == 1


def test_epochs_differ_in_order_and_in_what_they_leave_out():
    per_epoch = plan.steps_per_epoch(GROUPS, batch_size=10)
    rows = _rows(_windows(total_steps=2 * per_epoch))
    first, second = rows[: per_epoch * 10], rows[per_epoch * 10 :]
    assert first != second
    assert set(first) != set(second)


def test_the_same_seed_gives_the_same_order_and_another_gives_another():
    assert _rows(_windows()) == _rows(_windows())
    assert _rows(_windows(), seed=0) != _rows(_windows(seed=1), seed=1)


@pytest.mark.parametrize("start_step", range(19))
def test_resuming_at_any_step_continues_the_same_sequence(start_step: int):
    whole, rest = _rows(_windows()), _rows(_windows(start_step=start_step))
    assert rest == whole[start_step * 10 :]


def test_resuming_reads_no_finished_row_group_but_one_that_two_windows_share():
    skipped = {
        g for w in _windows(total_steps=5) if w.skip + w.take == w.num_rows for g in w.row_groups
    }
    read = {g for w in _windows(start_step=5, total_steps=9) for g in w.row_groups}
    assert len(skipped) > 1 and len(skipped & read) <= 1


def test_positions_count_on_over_epochs_without_gaps():
    windows = _windows()
    position = 0
    for window in windows:
        assert window.first_step * 10 == position
        position += window.take
    assert position == 180


def test_windows_hold_whole_batches_and_read_no_row_group_for_nothing():
    for window in _windows(start_step=1, total_steps=17):
        assert window.num_rows % 10 == window.skip % 10 == window.take % 10 == 0
        assert window.num_rows == 30  # 25 rounded up; an epoch has nine steps
        assert 0 <= window.offset < window.row_groups[0].num_rows
        before_last = sum(group.num_rows for group in window.row_groups[:-1])
        assert before_last < window.offset + window.num_rows
        assert window.offset + window.num_rows <= before_last + window.row_groups[-1].num_rows


def test_neighbours_in_a_file_are_spread_over_batches():
    rows = _rows(_windows(total_steps=9))
    batches = np.array([step // 10 for step, row in enumerate(rows) if row[:2] == ("0.parquet", 0)])
    assert len(set(batches)) > 1


def test_a_limit_takes_its_share_of_every_row_group():
    cut = plan.limit(GROUPS, 36)
    assert sum(group.num_rows for group in cut) == 36
    assert {group.num_rows for group in cut} <= {2, 3, 4}
    assert plan.limit(GROUPS, None) == GROUPS
    assert plan.limit(GROUPS, 10**6) == GROUPS


def test_fewer_images_than_the_batch_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=f"{NUM_IMAGES} images, fewer than.*1000"):
        plan.steps_per_epoch(GROUPS, batch_size=1000)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(12, 5), (8, 3), (7, 7), (9, 1), (10, 2)])
def test_parts_differ_by_at_most_one_image(batch_size: int, num_workers: int):
    sizes = plan.part_sizes(batch_size, num_workers)
    assert len(sizes) == num_workers and sum(sizes) == batch_size
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
