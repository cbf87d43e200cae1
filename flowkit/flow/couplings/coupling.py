"""What every coupling is: it says which noise goes with which data, and permutes only the noise."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component

Block = Annotated[
    int | None,
    Field(ge=2, description="rows that are paired with one another, fewer or more than a batch; without it, a batch"),
]


class Coupling(Component):
    """Pairs within one block. Conditions stay with their data, since it is the noise alone that moves."""

    conditional: ClassVar[bool] = False  # needs class labels or condition vectors
    independent: ClassVar[bool] = False  # noise and data are drawn independently of one another
    permutes: ClassVar[bool] = True
    stored: ClassVar[bool] = False  # the noise is not drawn, but read beside the rows

    def rows(self, batch_size: int) -> int:
        """How many consecutive rows of the run's stream are paired with one another; by default those of an update."""
        return batch_size

    @abstractmethod
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


class Independent(Coupling):
    """Noise as it was drawn: plain flow matching (arXiv 2210.02747)."""

    independent: ClassVar[bool] = True
    permutes: ClassVar[bool] = False

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """rows (B,): 0, 1, 2, ..."""
        return torch.arange(len(x0), device=x0.device)


class Paired(Independent):
    """The noise that each row came from, kept with the data: reflow (arXiv 2209.03003). Nothing is permuted.

    It is read beside the rows, where `flowkit sample --pairs` wrote it. Trained on a model's own pairs a flow keeps both ends and
    takes straighter ways, so that fewer steps do.
    """

    independent: ClassVar[bool] = False
    stored: ClassVar[bool] = True


class BlockCoupling(Coupling):
    """A coupling of as many rows as its setting says."""

    block: Block = None

    def rows(self, batch_size: int) -> int:
        return self.block or batch_size


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
