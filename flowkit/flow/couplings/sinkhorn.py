"""Entropic transport (SB-CFM, arXiv 2307.03672): permutations drawn from the plan of a block, by log-domain Sinkhorn."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from flowkit.conditions import NOTHING, Conditions
from flowkit.flow.couplings.assignment import assign
from flowkit.flow.couplings.coupling import BlockCoupling, transport_cost
from flowkit.flow.couplings.entropic import annealed, log_plan, potentials

EPSILON = 0.05
SWEEPS = 200  # the plan only needs to be a good start for the sampler
TOLERANCE = 1e-3
LEAST_ROUNDS = 64
UNBALANCED = 0.1  # largest accepted deviation of a column sum of the plan from 1


class Sinkhorn(BlockCoupling):
    """`epsilon`: regularization relative to the block's mean cost; `regularization`: in the units of the cost.

    A bridge of constant sigma needs regularization = 2 sigma^2 (sigma in the path). The permutation is drawn from the
    distribution "each row draws its noise from the plan, given that every noise is drawn once". The plan's row and column
    factors cancel: permutations have weight exp(-total cost / regularization), the discrete Schroedinger bridge of two samples,
    whose mean pairing converges to the plan as the block grows (arXiv 2011.08963). Towards 0 it becomes exact transport, towards
    infinity a uniformly random permutation. Independent draws per row would never use a third of the noise.
    """

    epsilon: float | None = Field(
        default=None, gt=0, description="regularization relative to the mean squared distance; 0.05 by default"
    )
    regularization: float | None = Field(
        default=None,
        gt=0,
        description="regularization in units of squared distance; use 2 sigma^2 for a bridge of sigma",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.epsilon is not None and self.regularization is not None:
            raise ValueError(
                f"epsilon = {self.epsilon:g} and regularization = {self.regularization:g} are mutually exclusive; remove one"
            )
        return self

    def __call__(self, x0: Tensor, x1: Tensor, given: Conditions = NOTHING, *, seed: int = 0) -> Tensor:
        """Return rows (B,), drawn with a generator seeded by `seed`."""
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
    """Return the log (B, B) of the entropic plan, with rows and columns that sum to 1; cost: (B, B) float64."""
    f, g = potentials(cost, annealed(float(cost.std()), regularization), SWEEPS, TOLERANCE)
    return log_plan(cost, f, g, regularization)


def draw_permutation(log: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw columns (B,) int64 with probability proportional to the product of exp(log[i, columns[i]]).

    log: (B, B), whose exponentials sum to 1 in each row. Starts with draws from the plan, where rows with the same column are
    reassigned, and continues with B rounds of a Gibbs sampler (at least LEAST_ROUNDS): rows are paired at random, and each pair
    swaps its columns with the probability given by the distribution.
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
        # u < 1 / (1 + exp(-gain)), without overflow
        swap = gain > -np.log(1 / generator.random(half).clip(1e-300) - 1 + 1e-300)
        columns[a], columns[b] = np.where(swap, cb, ca), np.where(swap, ca, cb)
    return columns


def _start(log: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a permutation close to the distribution. Every row draws a column; one random row keeps it if several drew the
    same, and the others share the remaining columns in the likeliest way.
    """
    size, plan = len(log), np.exp(log)
    if np.abs(plan.sum(axis=0) - 1).max() > UNBALANCED:
        return assign(-log)  # Sinkhorn did not converge: so little regularization is almost none
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
