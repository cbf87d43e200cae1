"""Entropic transport (SB-CFM, arXiv 2307.03672): permutations drawn by the plan of a block, by log-domain Sinkhorn."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, transport_cost
from flowkit.flow.couplings.entropic import annealed, log_plan, potentials

EPSILON = 0.05
SWEEPS = 200  # the law of the permutation needs no converged plan: only the sampler's start does
TOLERANCE = 1e-3
LEAST_ROUNDS = 64
UNBALANCED = 0.1  # of a column of the plan, which should sum to 1


class Sinkhorn(BlockCoupling):
    """`epsilon`: the regularization relative to the block's mean cost; `regularization`: in the cost's own units.

    The bridge of constant sigma wants regularization = 2 sigma^2 (sigma in the path). A permutation is drawn from the law of
    "each row draws its noise by the plan, given that every noise is drawn once". The plan's factors of rows and columns
    cancel in it: its weights are exp(-total cost / regularization), the discrete Schroedinger bridge of two samples, whose
    mean pairing tends to the plan as the block grows (arXiv 2011.08963). To 0 it is exact transport, to infinity a
    uniformly random permutation. A draw of the plan's rows apart would use a third of the noises never.
    """

    epsilon: float | None = Field(
        default=None, gt=0, description="regularization relative to the mean squared distance; without either, 0.05"
    )
    regularization: float | None = Field(
        default=None, gt=0, description="or in units of squared distance; a bridge of sigma wants 2 sigma^2"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.epsilon is not None and self.regularization is not None:
            raise ValueError(
                f"epsilon = {self.epsilon:g} and regularization = {self.regularization:g} are both given; leave one of them out"
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
        """rows (B,), drawn with a generator of `seed`."""
        cost = transport_cost(x0, x1)
        mean = float(cost.mean())
        r = (
            (EPSILON if self.epsilon is None else self.epsilon) * mean
            if self.regularization is None
            else self.regularization
        )
        generator = np.random.Generator(np.random.Philox(seed))
        rows = draw_permutation(entropic_plan(cost, r), generator) if r > 0 else assign(cost)
        return torch.from_numpy(rows).to(x0.device)


def entropic_plan(cost: np.ndarray, regularization: float) -> np.ndarray:
    """Logarithm (B, B) of the entropic plan, rows and columns summing to 1; cost: (B, B) float64."""
    f, g = potentials(cost, annealed(float(cost.std()), regularization), SWEEPS, TOLERANCE)
    return log_plan(cost, f, g, regularization)


def draw_permutation(log: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """columns (B,) int64 with probability proportional to the product of exp(log[i, columns[i]]); log: (B, B), rows
    summing to 1 as exponentials.

    Begins with draws of the plan, of which those that clash are matched anew, and goes on with B rounds of a Gibbs sampler
    (LEAST_ROUNDS at least): the rows are paired off at random, and each pair swaps its columns with the probability that
    the law gives.
    """
    size = len(log)
    columns = _start(log, generator)
    if size < 2:
        return columns
    flat, half = np.ascontiguousarray(log).ravel(), size // 2
    for _ in range(max(LEAST_ROUNDS, size)):
        pairs = generator.permutation(size)
        a, b = pairs[:half], pairs[half : 2 * half]
        ca, cb = columns[a], columns[b]
        gain = flat[a * size + cb] + flat[b * size + ca] - flat[a * size + ca] - flat[b * size + cb]
        # u < 1 / (1 + exp(-gain)), and no overflow
        swap = gain > -np.log(1 / generator.random(half).clip(1e-300) - 1 + 1e-300)
        columns[a], columns[b] = np.where(swap, cb, ca), np.where(swap, ca, cb)
    return columns


def _start(log: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A permutation near the law: every row draws; of those that drew the same column a random one keeps it, the others
    share the columns that are left in the likeliest way."""
    size, plan = len(log), np.exp(log)
    if np.abs(plan.sum(axis=0) - 1).max() > UNBALANCED:
        return assign(-log)  # Sinkhorn did not get there: so little regularization is nearly none
    cumulative = plan.cumsum(axis=1)
    drawn = (cumulative < generator.random((size, 1)) * cumulative[:, -1:]).sum(axis=1)
    order = generator.permutation(size)
    kept = order[np.unique(drawn[order], return_index=True)[1]]
    columns = np.full(size, -1)
    columns[kept] = drawn[kept]
    rest, free = np.flatnonzero(columns < 0), np.setdiff1d(np.arange(size), drawn)
    if len(rest):
        columns[rest] = free[assign(-log[np.ix_(rest, free)])]
    return columns.astype(np.int64)
