"""Explicit Runge-Kutta methods on a given grid, each defined by its Butcher tableau."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.flow.solvers.problem import Integrated, Problem, Solver, evaluations


@dataclass(frozen=True)
class Tableau:
    """Stage i is evaluated at t + nodes[i] h and x + h sum_j stages[i][j] k_j; the step is h sum_i weights[i] k_i."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


class RungeKutta(Solver):
    """Differentiable unless the caller disables gradients. Never syncs with the device."""

    tableau: ClassVar[Tableau]

    def solve(self, problem: Problem) -> Integrated:
        x, tableau = problem.x, self.tableau
        table = torch.tensor(stage_times(tableau.nodes, problem.edges), dtype=x.dtype)
        times = table.to(x.device)[..., None].expand(-1, -1, len(x)).contiguous()  # one copy to the device
        for step, (a, b) in enumerate(pairwise(problem.edges)):
            slopes: list[Tensor] = []
            for row, t in zip(tableau.stages, times[step].unbind(0), strict=True):
                slopes.append(problem.velocity(_advance(x, b - a, row, slopes), t).to(x.dtype))
            x = _advance(x, b - a, tableau.weights, slopes)
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, evaluations(problem.velocity, table.flatten()).sum().expand(len(x)))


class Euler(RungeKutta):
    tableau: ClassVar[Tableau] = Tableau((0.0,), ((),), (1.0,))


class Midpoint(RungeKutta):
    stages: ClassVar[int] = 2
    tableau: ClassVar[Tableau] = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))


class Heun(RungeKutta):
    stages: ClassVar[int] = 2
    tableau: ClassVar[Tableau] = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))


class RK4(RungeKutta):
    stages: ClassVar[int] = 4
    tableau: ClassVar[Tableau] = Tableau(
        (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    )


def stage_times(nodes: tuple[float, ...], edges: list[float]) -> list[list[float]]:
    """Return the times [step][stage], in double precision."""
    # a + c (b - a) may exceed b by rounding.
    return [[(1 - c) * a + c * b for c in nodes] for a, b in pairwise(edges)]


def _advance(x: Tensor, h: float, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = torch.add(x, slope, alpha=h * weight)
    return x
