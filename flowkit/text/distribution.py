"""Compare two sets of vectors as distributions, with confidence intervals."""

from __future__ import annotations

import numpy as np

from flowkit.metrics import resampling
from flowkit.metrics.distances import euclidean
from flowkit.metrics.moments import frechet, frechet_few, mmd2, rbf_kernel
from flowkit.metrics.neighbors import prdc
from flowkit.metrics.resampling import Estimate, half_sampling

NEIGHBORS = 5
FRECHET_REPEATS = 50  # each requires an eigendecomposition

Column = dict[str, Estimate | None]


class Reference:
    """The reference rows of all comparisons. Lengths are in units of `spread`."""

    def __init__(self, x: np.ndarray, spread: float | None = None) -> None:
        """x: (N, D) with N > 2 * NEIGHBORS. spread: defaults to the square root of the total variance."""
        rows = np.asarray(x, np.float64)
        self.center = rows.mean(axis=0)
        self.spread = spread or float(np.sqrt(rows.var(axis=0, ddof=1).sum())) or 1.0
        self.rows = self.scaled(rows)
        self.within = euclidean(self.rows, self.rows)
        self.bandwidth = float(np.median(self.within[np.triu_indices(len(rows), 1)])) or 1.0

    def scaled(self, x: np.ndarray) -> np.ndarray:
        return (np.asarray(x, np.float64) - self.center) / self.spread

    def frechet(self, x: np.ndarray) -> Estimate:
        """Return the squared Fréchet distance of x (M, D), divided by the reference's total variance.

        It is 1 if all rows are the mean of the reference.
        """
        rows = self.scaled(x)
        distance = frechet if min(len(rows), len(self.rows)) // 2 >= rows.shape[1] else frechet_few
        return half_sampling(
            lambda ref, oth: distance(self.rows[ref], rows[oth]), (len(self.rows), len(rows)),
            repeats=min(resampling.REPEATS, FRECHET_REPEATS), bounds=(0.0, np.inf),
            smooth=True,
        )[0]  # fmt: skip

    def compared(self, x: np.ndarray) -> Column:
        """Return all metrics of vectors x (M, D): Fréchet, kernel, precision and recall, density and coverage."""
        rows = self.scaled(x)
        sizes = (len(self.rows), len(rows))
        distances = self.within, euclidean(self.rows, rows), euclidean(rows, rows)
        kernels = [rbf_kernel(matrix, self.bandwidth) for matrix in distances]
        kernel = half_sampling(lambda ref, oth: mmd2(*_parts(kernels, ref, oth)), sizes, smooth=True)[0]
        shares = half_sampling(lambda ref, oth: prdc(*_parts(distances, ref, oth), k=NEIGHBORS), sizes)
        keys = ("precision", "recall", "density", "coverage")
        return {
            "frechet": self.frechet(x),
            "kernel_mmd": kernel,
            **{key: _within(one, 1.0 if key != "density" else np.inf) for key, one in zip(keys, shares, strict=True)},
        }


def _parts(matrices, ref: np.ndarray, oth: np.ndarray) -> tuple[np.ndarray, ...]:
    within, between, own = matrices
    return within[ref][:, ref], between[ref][:, oth], own[oth][:, oth]


def _within(estimate: Estimate, high: float) -> Estimate:
    return Estimate(estimate.value, max(estimate.low, 0.0), min(estimate.high, high))
