"""Conditional optimal transport (C2OT, arXiv 2503.10636): transport that leaves a condition its own share of the noise.

Plain transport gives each class the noises nearest to it; a sampler draws from all of them, and meets noise that the
class was never trained on. Here a noise belongs to the condition of the row that it was drawn for, and hardly leaves it.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, matrix, transport_cost

RATIO = 0.05  # the paper's for its two-dimensional sets


class ConditionalOptimalTransport(BlockCoupling):
    """`weight`: of the condition's distance beside that of x; without it, labels are not crossed at all, and the weight
    of a continuous condition is found such that a `ratio` of all pairs costs no more than the data's own noise does.
    """

    conditional: ClassVar[bool] = True
    weight: float | None = Field(
        default=None, ge=0, description="of a condition's distance beside x's; without it, labels are never crossed"
    )
    ratio: float | None = Field(
        default=None, gt=0, le=1,
        description="share of pairs that may cost less than a row's own noise: it finds the weight; without either, 0.05",
    )  # fmt: skip
    distance: Literal["squared", "cosine"] = Field(default="squared", description="between condition vectors")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.weight is not None and self.ratio is not None:
            raise ValueError(
                f"weight = {self.weight:g} and ratio = {self.ratio:g} are both given; leave one of them out"
            )
        return self

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """rows (B,). Raises UserError where there is neither a label nor a condition."""
        if class_label is None and condition is None:
            raise UserError("coupling 'c2ot': needs class labels or conditions, and the data has none; use 'ot'")
        conditions = None if condition is None else _points(condition, self.distance)
        labels = None if class_label is None else class_label.cpu().numpy()
        if labels is None or self.weight is not None:
            cost = transport_cost(x0, x1)
            rows = assign(cost + self._penalty(cost, labels, conditions))
            return torch.from_numpy(rows).to(x0.device)
        rows = np.arange(len(x0))
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            indices = torch.from_numpy(mine).to(x0.device)
            cost = transport_cost(x0[indices], x1[indices])
            if conditions is not None:
                cost = cost + self._penalty(cost, None, conditions[mine])
            rows[mine] = mine[assign(cost)]
        return torch.from_numpy(rows).to(x0.device)

    def _penalty(self, cost: np.ndarray, labels: np.ndarray | None, conditions: np.ndarray | None) -> np.ndarray:
        apart = np.zeros_like(cost)
        if conditions is not None:
            squares = np.einsum("ic,ic->i", conditions, conditions)
            apart += np.maximum(squares[:, None] + squares - 2 * conditions @ conditions.T, 0)
            np.fill_diagonal(apart, 0)
        if labels is not None:
            apart += labels[:, None] != labels
        weight = (
            weight_for(cost, apart, RATIO if self.ratio is None else self.ratio) if self.weight is None else self.weight
        )
        return weight * apart


def weight_for(cost: np.ndarray, apart: np.ndarray, ratio: float) -> float:
    """The w for which a `ratio` of the pairs (i, j), i != j, has cost_ij + w apart_ij <= cost_ii; (B, B) both, data by noise.

    A row's own noise is no such pair: in a block of twenty rows it alone would be the whole of a ratio of 0.05.
    Each pair holds up to its own w = (cost_ii - cost_ij) / apart_ij, so the answer is a quantile of those: no search.
    0 where fewer pairs than that hold at w = 0; where more hold for ever (equal conditions), the largest finite w.
    """
    gain = np.diagonal(cost)[:, None] - cost
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = np.where(apart > 0, gain / apart, np.where(gain >= 0, np.inf, -np.inf))
    np.fill_diagonal(limit, -np.inf)
    limit = limit.ravel()
    index = limit.size - max(1, round(ratio * (limit.size - len(cost))))
    found = np.partition(limit, index)[index]
    if found == np.inf:
        finite = limit[np.isfinite(limit)]
        found = finite.max() if len(finite) else 0.0
    return max(0.0, float(found))


def _points(condition: Tensor, distance: str) -> np.ndarray:
    """(B, C) whose squared distances are the conditions' distances; the cosine's are those of unit vectors, halved."""
    points = matrix(condition)
    if distance == "squared":
        return points - points.mean(axis=0)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1) / np.sqrt(2)
