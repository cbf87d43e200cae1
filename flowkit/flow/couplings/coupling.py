"""The base class of couplings, which pair noise with data by permuting the noise."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component
from flowkit.conditions import NOTHING, Conditions

Block = Annotated[
    int | None,
    Field(ge=2, description="number of rows paired among each other, more or fewer than a batch; by default one batch"),
]


class Coupling(Component):
    """Pairs noise with data within one block. Only the noise is permuted, so conditions stay with their data."""

    conditional: ClassVar[bool] = False  # whether it needs class labels or condition vectors
    independent: ClassVar[bool] = False  # whether noise and data are independent
    permutes: ClassVar[bool] = True
    stored: ClassVar[bool] = False  # whether the noise is read from the data instead of drawn

    def rows(self, batch_size: int) -> int:
        """Return how many consecutive rows of the run's stream are paired among each other; by default one batch."""
        return batch_size

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor, given: Conditions = NOTHING, *, seed: int = 0) -> Tensor:
        """x0, x1: (B, ...), given: of x1's rows -> rows (B,) int64, a permutation on x0's device: x1[i] is paired with
        x0[rows[i]]. `seed`: seeds all randomness.
        """


class Independent(Coupling):
    """Noise as drawn: plain flow matching (arXiv 2210.02747)."""

    independent: ClassVar[bool] = True
    permutes: ClassVar[bool] = False

    def __call__(self, x0: Tensor, x1: Tensor, given: Conditions = NOTHING, *, seed: int = 0) -> Tensor:
        """Return rows (B,): 0, 1, 2, ..."""
        return torch.arange(len(x0), device=x0.device)


class Paired(Independent):
    """The noise that each row came from, stored with the data: reflow (arXiv 2209.03003). Nothing is permuted.

    `flowkit sample --pairs` writes such data. Trained on a model's own pairs, a flow keeps both ends but takes straighter
    trajectories, so that fewer steps are enough.
    """

    independent: ClassVar[bool] = False
    stored: ClassVar[bool] = True


class BlockCoupling(Coupling):
    """A coupling within blocks of a chosen number of rows."""

    block: Block = None

    def rows(self, batch_size: int) -> int:
        return self.block or batch_size


def transport_cost(x0: Tensor, x1: Tensor) -> np.ndarray:
    """Return squared distances (B, B) in float64, data by noise: [i, j] is |x1[i] - x0[j]|^2.

    In float64, so that the number of BLAS threads cannot change the choice between two pairings of nearly equal cost.
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
