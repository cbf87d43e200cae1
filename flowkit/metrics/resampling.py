"""Intervals for figures that nearest neighbors are part of."""

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
    smooth: bool = False,
) -> list[Estimate]:
    """The figures of `statistic` on all rows, with intervals from random halves of each set.

    The usual bootstrap draws with replacement: every row that comes twice is its own nearest neighbor at distance 0,
    and 1-NN accuracy, coverage and precision are then about something else. A half drawn *without* replacement has
    no twins, and the spread of a mean over such halves is exactly that of the mean over all rows (half the rows, and
    half the population left: the two factors cancel), as in the delete-half jackknife (Shao and Wu, 1989; Politis and
    Romano, 1994). Many figures also shift with the number of rows, so the halves lend only their spread: the interval
    is the figure on all rows plus the percentiles of the halves' deviations from their own mean, cut at `bounds`.

    smooth: of figures that are means over pairs of rows, or near such (MMD^2, energy and Fréchet distances). Between equal
    distributions their first-order part vanishes, and halves spread by the root of 3 too far; `_second_order` corrects it.

    statistic: called with one array of row numbers per set, of the lengths `sizes` or half that; returns k figures.
    """
    rng, repeats = np.random.default_rng(seed), repeats or REPEATS
    repeats -= repeats % 2
    whole = np.atleast_1d(statistic(*(np.arange(size) for size in sizes)))
    halves = np.empty((repeats, len(whole)))
    orders: list[np.ndarray] = []
    for repeat in range(repeats):
        other_half = smooth and repeat % 2 == 1
        if not other_half:
            orders = [rng.permutation(size) for size in sizes]
        sides = [
            slice(-max(len(order) // 2, 1), None) if other_half else slice(max(len(order) // 2, 1)) for order in orders
        ]
        halves[repeat] = np.atleast_1d(statistic(*(np.sort(o[side]) for o, side in zip(orders, sides, strict=True))))
    spread = halves - halves.mean(axis=0)
    if smooth:
        spread *= _second_order(halves)
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    clip = lambda figure: float(np.clip(figure, *bounds))  # noqa: E731
    return [
        Estimate(float(value), clip(value + down), clip(value + up))
        for value, down, up in zip(whole, low, high, strict=True)
    ]


def _second_order(halves: np.ndarray) -> np.ndarray:
    """What deviations of `halves` (R, k) are to be multiplied by: (k,). Each odd row is of the half that the one before left.

    Let U = u + l + q be a figure with its first- and second-order parts (Hoeffding), and e = +1 or -1 say which half a row is in.
    A half's figure is, to second order, U plus a part odd in e, of variance Var l + 2 Var q (the projections are estimated, and
    their error counts), plus an even one, of variance Var q. Half the difference of complementary halves is the odd part, half
    their sum the even one. Wanted is Var l + Var q, odd less even; it is at least a third of their sum, its value at l = 0.
    """
    first, second = halves[::2], halves[1::2]
    odd, even = np.square((first - second) / 2).mean(axis=0), ((first + second) / 2).var(axis=0, ddof=1)
    total = odd + even
    return np.sqrt(np.maximum(odd - even, total / 3) / np.where(total > 0, total, 1.0))
