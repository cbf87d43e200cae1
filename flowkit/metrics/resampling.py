"""Confidence intervals that are also valid for nearest-neighbor metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL, REPEATS = 0.9, 200


@dataclass(frozen=True)
class Estimate:
    """A metric with its confidence interval (level 0.9 by default)."""

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
    """Return `statistic` on all rows, with intervals from random halves of each set.

    The usual bootstrap draws with replacement. A row that is drawn twice is its own nearest neighbor at distance 0, which
    distorts 1-NN accuracy, coverage and precision. Halves drawn *without* replacement have no such pairs, and the variance
    of a mean over such halves equals that of the mean over all rows: having half the rows and drawing from a finite
    population cancel, as in the delete-half jackknife (Shao and Wu, 1989; Politis and Romano, 1994). Many metrics are
    biased by the number of rows, so only the spread of the halves is used: the interval is the value on all rows plus the
    percentiles of the halves' deviations from their own mean, clipped to `bounds`.

    smooth: set it for metrics that are means over pairs of rows, or close to it (MMD^2, energy and Fréchet distances). For
    equal distributions their first-order term vanishes, and the spread of halves is too large by sqrt(3); `_second_order`
    corrects it.

    statistic: called with one array of row numbers per set, of the lengths `sizes` or half of them; returns k values.
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
    """Return factors (k,) for the deviations of `halves` (R, k). Each odd row is from the complement of the half before it.

    Let U = u + l + q be a statistic with its first- and second-order terms (Hoeffding), and e = +1 or -1 the half of a row.
    To second order, the value on a half is U plus a term odd in e, of variance Var l + 2 Var q (including the error of the
    estimated projections), plus an even term, of variance Var q. The odd term is half the difference of complementary
    halves, the even term half their sum. The variance of U is Var l + Var q, which is odd minus even. It is at least a third
    of their sum, its value for l = 0.
    """
    first, second = halves[::2], halves[1::2]
    odd, even = np.square((first - second) / 2).mean(axis=0), ((first + second) / 2).var(axis=0, ddof=1)
    total = odd + even
    return np.sqrt(np.maximum(odd - even, total / 3) / np.where(total > 0, total, 1.0))
