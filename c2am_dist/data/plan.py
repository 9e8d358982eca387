"""Which images make up each step: pure functions of the shards, the seed and the batch size.

An epoch draws the row groups in random order, cuts their rows into windows of whole global
batches, and shuffles the rows of each window together. What does not fill the last batch is left
out of that epoch (each epoch leaves out others). The order depends on nothing else, so any number
of workers trains on the same batches, and a run resumes at any step by skipping whole windows and
the head of one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from c2am_dist.data.shards import RowGroup


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Rows that are shuffled together, and the batches of them to deliver."""

    epoch: int
    index: int
    """Place in the epoch; with the epoch and the run's seed it seeds the shuffle."""
    row_groups: tuple[RowGroup, ...]
    """Those that hold the rows; the first and the last may belong to a neighbour in part."""
    offset: int
    """Rows of the first row group that belong to the window before."""
    num_rows: int
    """Rows of the window: a multiple of the batch."""
    skip: int
    """Shuffled rows to leave out at the start (trained on before a resume)."""
    take: int
    """Shuffled rows to deliver after those: whole batches."""
    first_step: int
    """The step that the first delivered batch is for."""

    def order(self, seed: int) -> np.ndarray:
        """Indices of the delivered rows into the concatenated rows of the row groups."""
        rng = np.random.default_rng([seed, self.epoch, 1 + self.index])
        return self.offset + rng.permutation(self.num_rows)[self.skip : self.skip + self.take]


def limit(row_groups: Sequence[RowGroup], num_images: int | None) -> list[RowGroup]:
    """Row groups cut to ``num_images`` rows in all, each to its proportional share."""
    total = sum(group.num_rows for group in row_groups)
    if num_images is None or num_images >= total:
        return list(row_groups)
    ends = np.cumsum([group.num_rows for group in row_groups]) * num_images // total
    shares = np.diff(ends, prepend=0)
    cut = [
        dataclasses.replace(group, num_rows=int(share))
        for group, share in zip(row_groups, shares, strict=True)
    ]
    return [group for group in cut if group.num_rows]


def steps_per_epoch(row_groups: Sequence[RowGroup], *, batch_size: int) -> int:
    """Whole batches an epoch holds.

    Raises:
        ValueError: there are fewer images than one batch.
    """
    num_images = sum(group.num_rows for group in row_groups)
    if num_images < batch_size:
        raise ValueError(
            f"data.train holds {num_images} images, fewer than optim.batch_size ({batch_size})"
        )
    return num_images // batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Sequence[Window]):
    """The windows that deliver steps ``start_step`` to ``total_steps - 1``, in order.

    Each is worked out when asked for, so that the whole costs no more to send than the row groups.
    """

    row_groups: Sequence[RowGroup]
    seed: int
    batch_size: int
    start_step: int
    total_steps: int
    shuffle_images: int
    """Rows of each window but an epoch's last, rounded up to whole batches."""

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.row_groups, batch_size=self.batch_size)

    @property
    def steps_per_window(self) -> int:
        return -(-self.shuffle_images // self.batch_size)

    def __len__(self) -> int:
        if self.start_step >= self.total_steps:
            return 0
        return self._number(self.total_steps - 1) - self._number(self.start_step) + 1

    def _number(self, step: int) -> int:
        """Which window of the run holds a step."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        return epoch * self._per_epoch + step_of_epoch // self.steps_per_window

    @property
    def _per_epoch(self) -> int:
        return -(-self.steps_per_epoch // self.steps_per_window)

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(position)
        epoch, index = divmod(self._number(self.start_step) + position, self._per_epoch)
        begin = index * self.steps_per_window
        end = min(begin + self.steps_per_window, self.steps_per_epoch)
        first = max(self.start_step - epoch * self.steps_per_epoch, begin)
        last = min(self.total_steps - epoch * self.steps_per_epoch, end)
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.row_groups))
        ends = np.cumsum(np.array([group.num_rows for group in self.row_groups])[order])
        head = int(np.searchsorted(ends, begin * self.batch_size, side="right"))
        tail = int(np.searchsorted(ends, end * self.batch_size, side="left"))
        row_groups = tuple(self.row_groups[i] for i in order[head : tail + 1])
        return Window(
            epoch=epoch,
            index=index,
            row_groups=row_groups,
            offset=begin * self.batch_size - int(ends[head]) + row_groups[0].num_rows,
            num_rows=(end - begin) * self.batch_size,
            skip=(first - begin) * self.batch_size,
            take=(last - first) * self.batch_size,
            first_step=epoch * self.steps_per_epoch + first,
        )


def part_sizes(batch_size: int, num_workers: int) -> list[int]:
    """How many images of each global batch every worker gets: as equal as can be, in rank order."""
    quotient, remainder = divmod(batch_size, num_workers)
    return [quotient + (rank < remainder) for rank in range(num_workers)]
