"""Conditional optimal transport (C2OT, arXiv 2503.10636): transport that keeps noise with its condition.

Plain transport gives each class the noise nearest to it, but a sampler draws from all noise, and so meets noise that the
class was never trained on. Here noise belongs to the condition of the row it was drawn for, and rarely leaves it.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from flowkit.conditions import NOTHING, Conditions
from flowkit.errors import UserError
from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, matrix, transport_cost

RATIO = 0.05  # as in the paper, for its two-dimensional data


class ConditionalOptimalTransport(BlockCoupling):
    """`weight`: weight of the condition's distance relative to that of x. Without it labels are never mixed, and the weight
    of a continuous condition is chosen so that a `ratio` of all pairs costs no more than the data's own noise.
    """

    conditional: ClassVar[bool] = True
    weight: float | None = Field(
        default=None,
        ge=0,
        description="weight of the condition's distance relative to x's; by default labels are never mixed",
    )
    ratio: float | None = Field(
        default=None, gt=0, le=1,
        description="fraction of pairs allowed to cost less than a row's own noise; determines the weight; 0.05 by default",
    )  # fmt: skip
    distance: Literal["squared", "cosine"] = Field(default="squared", description="distance between condition vectors")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.weight is not None and self.ratio is not None:
            raise ValueError(
                f"weight = {self.weight:g} and ratio = {self.ratio:g} are mutually exclusive; remove one of them"
            )
        return self

    def __call__(self, x0: Tensor, x1: Tensor, given: Conditions = NOTHING, *, seed: int = 0) -> Tensor:
        """Return rows (B,). Raises UserError without labels and conditions."""
        if not given.kinds:
            raise UserError("coupling 'c2ot': needs class labels or conditions, but the data has none; use 'ot'")
        conditions = None if given.tokens is None else _points(given, self.distance)
        labels = None if given.class_label is None else given.class_label.cpu().numpy()
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
    """Return the w for which a `ratio` of the pairs (i, j), i != j, has cost_ij + w apart_ij <= cost_ii.

    cost, apart: (B, B), data by noise. A row's own noise is not counted: in a block of twenty rows it would already make up a
    ratio of 0.05. Each pair satisfies this up to its own w = (cost_ii - cost_ij) / apart_ij, so the answer is a quantile of
    those, without a search. 0 if too few pairs satisfy it at w = 0; the largest finite w if too many always do (equal
    conditions).
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


def _points(given: Conditions, distance: str) -> np.ndarray:
    """Return points (B, C) whose squared distances are the conditions' distances; for cosine, unit vectors over sqrt(2)."""
    assert given.tokens is not None
    points = matrix(given.tokens if given.mask is None else given.tokens * given.mask[..., None])  # padding counts as 0
    if distance == "squared":
        return points - points.mean(axis=0)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1) / np.sqrt(2)
