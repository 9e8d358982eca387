"""Which images make up each step: pure functions of the shards, the seed and the batch size.

An epoch draws the row groups in random order, gathers them into windows, and shuffles the
rows of each window together. The rows so ordered are cut into global batches, and what does
not fill the last one is left out of that epoch (each epoch leaves out others). The order
depends on nothing else, so any number of workers trains on the same batches, and a run
resumes at any step by skipping whole windows and the head of one.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from c2am_dist.data.shards import RowGroup


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Row groups whose rows are shuffled together, and the part of them to deliver."""

    epoch: int
    index: int
    """Place in the epoch; with the epoch and the run's seed it seeds the shuffle."""
    row_groups: tuple[RowGroup, ...]
    skip: int
    """Shuffled rows to leave out at the start (trained on before a resume)."""
    take: int
    """Shuffled rows to deliver after those."""
    first_row: int
    """Position of the first delivered row in the whole run; its step is this // batch."""

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.row_groups)

    def order(self, seed: int) -> np.ndarray:
        """Indices of the delivered rows into the concatenated rows of the row groups."""
        rng = np.random.default_rng([seed, self.epoch, 1 + self.index])
        return rng.permutation(self.num_rows)[self.skip : self.skip + self.take]


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


def windows(
    row_groups: Sequence[RowGroup],
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
    shuffle_images: int,
) -> Iterator[Window]:
    """The windows that deliver steps ``start_step`` to ``total_steps - 1``, in order."""
    per_epoch = steps_per_epoch(row_groups, batch_size=batch_size)
    start_row, end_row = start_step * batch_size, total_steps * batch_size
    for epoch in range(start_step // per_epoch, -(-total_steps // per_epoch)):
        row = epoch * per_epoch * batch_size
        epoch_end = min(row + per_epoch * batch_size, end_row)
        grouped = _grouped(row_groups, seed=seed, epoch=epoch, shuffle_images=shuffle_images)
        for index, groups in enumerate(grouped):
            size = sum(group.num_rows for group in groups)
            first, last = max(row, start_row), min(row + size, epoch_end)
            if first < last:
                yield Window(
                    epoch=epoch,
                    index=index,
                    row_groups=groups,
                    skip=first - row,
                    take=last - first,
                    first_row=first,
                )
            row += size


def _grouped(
    row_groups: Sequence[RowGroup], *, seed: int, epoch: int, shuffle_images: int
) -> Iterator[tuple[RowGroup, ...]]:
    """The row groups in the epoch's random order, in runs of ``shuffle_images`` rows."""
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(row_groups))
    pending: list[RowGroup] = []
    size = 0
    for position in order:
        pending.append(row_groups[position])
        size += pending[-1].num_rows
        if size >= shuffle_images:
            yield tuple(pending)
            pending, size = [], 0
    if pending:
        yield tuple(pending)


def part_sizes(batch_size: int, num_workers: int) -> list[int]:
    """How many images of each global batch every worker gets: as equal as can be, in rank order."""
    quotient, remainder = divmod(batch_size, num_workers)
    return [quotient + (rank < remainder) for rank in range(num_workers)]


def padded(rows: np.ndarray, *, batch_size: int, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the run, in order, with the parts of all workers padded to one length.

    Args:
        rows: consecutive positions in the run; each batch is cut into :func:`part_sizes`.
        batch_size: of the global batch, at least ``num_workers``.
        num_workers: among whom it is cut.

    Returns:
        Indices into ``rows``, and which of them are padding: the last row of a part that is one
        shorter than the longest comes twice. Any slice of the run is padded as the whole is.
    """
    sizes = np.array(part_sizes(batch_size, num_workers))
    is_last_of_short = np.isin(rows % batch_size, np.cumsum(sizes)[sizes < sizes.max()] - 1)
    indices = np.repeat(np.arange(len(rows)), 1 + is_last_of_short)
    return indices, np.diff(indices, prepend=-1) == 0
