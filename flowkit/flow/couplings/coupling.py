"""What every coupling is: it says which noise goes with which data, and permutes only the noise."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor


class Coupling(Protocol):
    """Pairs within one block. Conditions stay with their data, since it is the noise alone that moves."""

    conditional: ClassVar[bool]  # needs class labels or condition vectors

    @property
    def block(self) -> int | None:
        """Consecutive rows of the run's stream that are paired with one another; None: those of one update."""
        ...

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """x0, x1: (B, ...), class_label: (B,), condition: (B, ...) -> rows (B,) int64, a permutation on x0's device:
        x1[i] is paired with x0[rows[i]]. `seed` is all that a random coupling draws from.
        """
        ...


def transport_cost(x0: Tensor, x1: Tensor) -> np.ndarray:
    """Squared distances (B, B) in float64, data by noise: [i, j] is |x1[i] - x0[j]|^2.

    In float64, so that another number of BLAS threads cannot tip the choice between two pairings of nearly equal cost.
    """
    noise, data = matrix(x0), matrix(x1)
    cost = data @ noise.T
    cost *= -2
    cost += np.einsum("id,id->i", data, data)[:, None]
    cost += np.einsum("jd,jd->j", noise, noise)
    return np.maximum(cost, 0, out=cost)


def matrix(x: Tensor) -> np.ndarray:
    """x: (B, ...) -> (B, D) float64 on the host."""
    return x.detach().flatten(1).double().cpu().numpy()
