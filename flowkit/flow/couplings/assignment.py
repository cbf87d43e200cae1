"""Exact assignment: scipy's shortest augmenting paths, on a cost reduced by nearly optimal dual prices."""

from __future__ import annotations

import numpy as np

from flowkit.flow.couplings.entropic import potentials

STAGES = (0.05, 0.01, 0.002)  # entropic regularizations, in standard deviations of the cost
SWEEPS, RELAXATION = 12, 1.5  # fastest among 6 to 40 and 1 to 1.7, in 2, 256 and 1,024 dimensions
SMALL = 64  # up to this size the plain solver is as fast


def assign(cost: np.ndarray) -> np.ndarray:
    """Return columns (B,) int64, the permutation of least total cost; cost: (B, B) finite. Exact up to float64 rounding.

    Subtracting a constant from each row and column of the cost does not change the best permutation. After subtracting
    Sinkhorn's potentials, an optimal pair costs almost nothing, so the solver's paths end after a few steps instead of running
    through whole clusters: five to fifteen times as fast as on the plain cost.
    """
    from scipy.optimize import linear_sum_assignment

    if len(cost) > SMALL and (scale := float(cost.std())) > 0:
        # Single precision is enough for prices: they affect the solver's time, not its result.
        low = np.empty(cost.shape, np.float32)
        np.subtract(cost, cost.mean(), out=low, dtype=np.float64, casting="same_kind")
        _, g = potentials(low, [scale * stage for stage in STAGES], SWEEPS, relaxation=RELAXATION)
        del low
        cost = cost - g
        cost -= cost.min(axis=1, keepdims=True)
        cost -= cost.min(axis=0)
    return linear_sum_assignment(cost)[1].astype(np.int64)
