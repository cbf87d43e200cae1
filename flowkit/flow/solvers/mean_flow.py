"""Sampling by average velocities (MeanFlow, arXiv 2505.13447): each step goes all the way to its end."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch

from flowkit.errors import UserError
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, evaluations


class MeanFlowSolver(Solver):
    """x += (s - t) u(x, t, s): exact in any number of steps where u is. One evaluation a step, two under guidance.

    The velocity has `over(span)`, its average over that span. Raises UserError backwards, which no training covers.
    """

    averages: ClassVar[bool] = True
    backward: ClassVar[bool] = False

    def solve(self, problem: Problem) -> Integrated:
        x, velocity = problem.x, problem.velocity
        over = getattr(velocity, "over", None)
        if over is None:
            raise UserError(
                "solver: 'mean_flow' needs a network of average velocities; use 'midpoint' or another ODE solver"
            )
        nfe = torch.zeros(len(x), dtype=torch.int64)
        for step, (a, b) in enumerate(pairwise(problem.edges)):
            if b < a:
                raise UserError(
                    "solver: 'mean_flow' goes from noise to data only; use 'midpoint' or another ODE solver backwards"
                )
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            x = torch.add(x, over(b - a)(x, t).to(x.dtype), alpha=b - a)
            nfe = nfe + evaluations(velocity, torch.full((1,), a))
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, nfe)
