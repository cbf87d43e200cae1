"""Intervals for figures that nearest neighbours are part of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL, REPEATS = 0.9, 200


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (of level 0.9, unless said)."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def half_sampling(
    statistic: Callable[..., Sequence[float] | float],
    sizes: Sequence[int],
    *,
    repeats: int | None = None,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
) -> list[Estimate]:
    """The figures of `statistic` on all rows, with intervals from random halves of each set.

    The usual bootstrap draws with replacement: every row that comes twice is its own nearest neighbour at distance 0,
    and 1-NN accuracy, coverage and precision are then about something else. A half drawn *without* replacement has
    no twins, and the spread of a mean over such halves is exactly that of the mean over all rows (half the rows, and
    half the population left: the two factors cancel), as in the delete-half jackknife (Shao and Wu, 1989; Politis and
    Romano, 1994). Many figures also shift with the number of rows, so the halves lend only their spread: the interval
    is the figure on all rows plus the percentiles of the halves' deviations from their own mean, cut at `bounds`.

    statistic: called with one array of row numbers per set, of the lengths `sizes` or half that; returns k figures.
    """
    rng, repeats = np.random.default_rng(seed), repeats or REPEATS
    whole = np.atleast_1d(statistic(*(np.arange(size) for size in sizes)))
    halves = np.empty((repeats, len(whole)))
    for repeat in range(repeats):
        rows = [np.sort(rng.permutation(size)[: max(size // 2, 1)]) for size in sizes]
        halves[repeat] = np.atleast_1d(statistic(*rows))
    spread = halves - halves.mean(axis=0)
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    clip = lambda figure: float(np.clip(figure, *bounds))  # noqa: E731
    return [
        Estimate(float(value), clip(value + down), clip(value + up))
        for value, down, up in zip(whole, low, high, strict=True)
    ]
