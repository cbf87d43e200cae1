"""Reconstruction: data back to the noise that it would come from, and forth again.

What comes back says that the solver is fine enough and the field smooth; it says nothing of what was learned, for the
zero field brings everything back. The noise does: it should be unit noise, with its variance in *every* direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowkit.flow.solvers import Velocity, integrate

MAX_ERROR, VARIANCE = 0.1, (0.8, 1.2)  # of the gate


@dataclass(frozen=True)
class Inversion:
    """Mean squared error of x1 -> x0 -> x1 and the variance of x0, both per dimension, and how round that x0 is.

    The variance is over the base's own: 1 for unit noise, the mean of its dimensions for a data set.
    """

    mse: float
    variance: float
    effective_dimensions: float  # (tr C)^2 / tr C^2 of x0's covariance C: D where it is round, far fewer for data

    @property
    def passes(self) -> bool:
        """The gate. Data of unit variance lets the zero field through, so look at the effective dimensions too."""
        return self.mse < MAX_ERROR and VARIANCE[0] <= self.variance <= VARIANCE[1]


def reconstruct(velocity: Velocity, x1: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Follow the field from x1 (B, ...) at t = 1 back to t = 0 and forth: (x0, x1 again). `how` and what it
    raises is as in `integrate`."""
    x0, _ = integrate(velocity, x1, t0=1.0, t1=0.0, **how)
    back, _ = integrate(velocity, x0, **how)
    return x0, back


def inversion_figures(x0: Tensor, x1: Tensor, back: Tensor, base_variance: float = 1.0) -> Inversion:
    """x0, x1, back: (N, ...) with N >= 2, x1 the data and `back` what came of it. Computed in float64."""
    x0, x1, back = (tensor.detach().flatten(1).cpu().double() for tensor in (x0, x1, back))
    variance = float(x0.var(dim=0).mean()) / base_variance
    return Inversion(float((back - x1).square().mean()), variance, effective_dimensions(x0))


def zero_field_figures(x1: Tensor, base_variance: float = 1.0) -> Inversion:
    """What predicting no velocity at all would score on x1 (N, ...): nothing moves, so x0 is the data."""
    return inversion_figures(x1, x1, x1, base_variance)


def effective_dimensions(x: Tensor) -> float:
    """Participation ratio (tr C)^2 / tr C^2 of the covariance of x (N, D), free of the bias that few rows have.

    On N rows the plain ratio of unit noise is D / (1 + D / N); tr C^2 is therefore estimated without bias for Gaussian rows
    (Bai and Saranadasa, 1996). Between 1 and D, up to chance.
    """
    n = len(x)
    centred = x - x.mean(dim=0)
    gram = centred @ centred.T if n <= x.shape[1] else centred.T @ centred  # the same trace of squares either way
    trace = float(centred.square().sum()) / (n - 1)
    squares = float(gram.square().sum()) / (n - 1) ** 2
    unbiased = (squares - trace**2 / (n - 1)) * (n - 1) ** 2 / ((n - 2) * (n + 1)) if n > 2 else squares
    return trace**2 / unbiased if unbiased > 0 else float(x.shape[1])
