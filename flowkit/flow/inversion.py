"""Inversion: data back to the noise that it would come from, and its reconstruction.

The reconstruction error shows that the solver is accurate and the field smooth, but not what was learned: the zero field
reconstructs everything. The noise does: it should be unit noise, with variance 1 in *every* direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowkit.flow.solvers import Velocity, integrate

MAX_ERROR, VARIANCE = 0.1, (0.8, 1.2)  # limits of `Inversion.passes`


@dataclass(frozen=True)
class Inversion:
    """Mean squared error of x1 -> x0 -> x1 and variance of x0, both per dimension, and the effective dimensions of x0.

    The variance is relative to the base's: 1 for unit noise, the mean over dimensions for a data set.
    """

    mse: float
    variance: float
    effective_dimensions: float  # (tr C)^2 / tr C^2 of x0's covariance C: D for unit noise, far fewer for data

    @property
    def passes(self) -> bool:
        """Whether the figures are within limits. The zero field passes on data of unit variance: see the effective dimensions."""
        return self.mse < MAX_ERROR and VARIANCE[0] <= self.variance <= VARIANCE[1]


def reconstruct(velocity: Velocity, x1: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Integrate from x1 (B, ...) at t = 1 back to t = 0 and forward again: (x0, x1 again). `how`, raises: as `integrate`."""
    x0, _ = integrate(velocity, x1, t0=1.0, t1=0.0, **how)
    back, _ = integrate(velocity, x0, **how)
    return x0, back


def inversion_figures(x0: Tensor, x1: Tensor, back: Tensor, base_variance: float = 1.0) -> Inversion:
    """Return the figures for x0, x1, back: (N, ...) with N >= 2, the data x1 and its reconstruction. In float64."""
    x0, x1, back = (tensor.detach().flatten(1).cpu().double() for tensor in (x0, x1, back))
    variance = float(x0.var(dim=0).mean()) / base_variance
    return Inversion(float((back - x1).square().mean()), variance, effective_dimensions(x0))


def zero_field_figures(x1: Tensor, base_variance: float = 1.0) -> Inversion:
    """Return the figures of predicting zero velocity on x1 (N, ...): nothing moves, so x0 is the data."""
    return inversion_figures(x1, x1, x1, base_variance)


def effective_dimensions(x: Tensor) -> float:
    """Return the participation ratio (tr C)^2 / tr C^2 of the covariance of x (N, D), corrected for few rows.

    With N rows the plain ratio of unit noise is D / (1 + D / N), so tr C^2 is estimated without bias for Gaussian rows
    (Bai and Saranadasa, 1996). Between 1 and D, up to chance.
    """
    n = len(x)
    centered = x - x.mean(dim=0)
    gram = centered @ centered.T if n <= x.shape[1] else centered.T @ centered  # both have the same trace of squares
    trace = float(centered.square().sum()) / (n - 1)
    squares = float(gram.square().sum()) / (n - 1) ** 2
    unbiased = (squares - trace**2 / (n - 1)) * (n - 1) ** 2 / ((n - 2) * (n + 1)) if n > 2 else squares
    return trace**2 / unbiased if unbiased > 0 else float(x.shape[1])
