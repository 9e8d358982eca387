"""How far apart points of a sweep lie that do not differ, judged by the spread of their seeds."""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

_NUM_DRAWS = 200_000


class Noise:
    """What differences between points' means chance alone makes, in 19 of 20 cases.

    A seed brings the same images in the same order to every point, so it may lift or lower all of
    them alike, and that does not blur their differences. Where every point has every seed, such
    levels are taken out (a randomized complete block design with the seeds as blocks).

    Args:
        points: the objective of each point's finished seeds, in the seeds' order. Their deviation
            is taken for the same at every point, and pooled.
        takes_levels_out: as described; else a seed's level counts as noise, too.

    Raises:
        ValueError: no point has two seeds.
    """

    def __init__(self, points: Iterable[Sequence[float]], *, takes_levels_out: bool = True) -> None:
        seeds = [values for values in points if values]
        numbers = {len(values) for values in seeds}
        is_complete = takes_levels_out and len(seeds) > 1 and len(numbers) == 1
        self._freedom = sum(len(values) - 1 for values in seeds)
        if not self._freedom:
            raise ValueError("no point has two finished seeds, so nothing says what seeds change")
        squares = sum((len(v) - 1) * statistics.variance(v) for v in seeds if len(v) > 1)
        if is_complete:
            (num_seeds,) = numbers
            levels = [statistics.mean(values) for values in zip(*seeds, strict=True)]
            squares -= len(seeds) * (num_seeds - 1) * statistics.variance(levels)
            self._freedom -= num_seeds - 1
        # Where points differ in their number of seeds: with the harmonic mean of the numbers.
        number = statistics.harmonic_mean(map(len, seeds))
        self._error = (max(squares, 0.0) / self._freedom / number) ** 0.5

    def range_bound(self, num_points: int) -> float:
        """What the largest less the smallest of so many means stays below."""
        return studentized_range(num_points, self._freedom) * self._error

    def gap_bound(self, num_others: int) -> float:
        """What one mean and the mean of so many others differ by at most."""
        # Student's t: the range of two means is their difference, which errs 2 ** 0.5 times one's.
        quantile = studentized_range(2, self._freedom) / 2**0.5
        return quantile * self._error * (1 + 1 / num_others) ** 0.5


def studentized_range(num_points: int, freedom: int) -> float:
    """Tukey's q: 95 % of ranges of so many equal means are smaller, in standard errors of one.

    Estimated from a fixed seed's draws, since no dependency has it; within 2 % of its tables.

    Args:
        num_points: how many means.
        freedom: degrees of freedom of the standard error.
    """
    draws = np.random.default_rng(0)
    ranges = np.ptp(draws.standard_normal((_NUM_DRAWS, num_points)), axis=1)
    errors = np.sqrt(draws.chisquare(freedom, _NUM_DRAWS) / freedom)
    return float(np.quantile(ranges / errors, 0.95))
