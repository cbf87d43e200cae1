"""Exact assignment: scipy's shortest augmenting paths on a cost from which nearly optimal dual prices were taken off."""

from __future__ import annotations

import numpy as np

from flowkit.flow.couplings.entropic import potentials

STAGES = (0.05, 0.01, 0.002)  # entropic regularizations, in standard deviations of the cost
SWEEPS, RELAXATION = 12, 1.5  # of 6 to 40 and 1 to 1.7, what left the least to do in 2, 256 and 1,024 dimensions
SMALL = 64  # below it the plain solver is as fast


def assign(cost: np.ndarray) -> np.ndarray:
    """columns (B,) int64, the permutation of least total cost; cost: (B, B) finite. Exact to float64's rounding.

    Taking one number off each row and column of the cost changes no permutation's rank. With Sinkhorn's potentials
    taken off, an optimal pair costs next to nothing and the solver's paths end after a few steps, where they would
    run through whole clusters: five to fifteen times as fast as on the plain cost.
    """
    from scipy.optimize import linear_sum_assignment

    if len(cost) > SMALL and (scale := float(cost.std())) > 0:
        # Single precision is enough for prices: they decide how long the solver takes, not what it finds.
        low = np.empty(cost.shape, np.float32)
        np.subtract(cost, cost.mean(), out=low, dtype=np.float64, casting="same_kind")
        _, g = potentials(low, [scale * stage for stage in STAGES], SWEEPS, relaxation=RELAXATION)
        del low
        cost = cost - g
        cost -= cost.min(axis=1, keepdims=True)
        cost -= cost.min(axis=0)
    return linear_sum_assignment(cost)[1].astype(np.int64)
