"""Sampling with average velocities (MeanFlow, arXiv 2505.13447): each step goes directly to its end."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch

from flowkit.errors import UserError
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, evaluations


class MeanFlowSolver(Solver):
    """x += (s - t) u(x, t, s): exact in any number of steps if u is. One evaluation per step, two with guidance.

    The velocity has `over(span)`, its average over that span. Raises UserError backward, which is not trained.
    """

    averages: ClassVar[bool] = True
    backward: ClassVar[bool] = False

    def solve(self, problem: Problem) -> Integrated:
        x, velocity = problem.x, problem.velocity
        over = getattr(velocity, "over", None)
        if over is None:
            raise UserError(
                "solver: 'mean_flow' needs a network that predicts average velocities; use 'midpoint' or another ODE solver"
            )
        nfe = torch.zeros(len(x), dtype=torch.int64)
        for step, (a, b) in enumerate(pairwise(problem.edges)):
            if b < a:
                raise UserError(
                    "solver: 'mean_flow' only goes from noise to data; use 'midpoint' or another ODE solver to go backward"
                )
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            x = torch.add(x, over(b - a)(x, t).to(x.dtype), alpha=b - a)
            nfe = nfe + evaluations(velocity, torch.full((1,), a))
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, nfe)
