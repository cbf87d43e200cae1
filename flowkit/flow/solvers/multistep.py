"""Multistep methods: one network evaluation a step, and what earlier steps evaluated. They begin with a step of first order."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.paths import GaussianPath
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, evaluations


class AdamsBashforth(Solver):
    """The two-step method of second order, on any grid; the first step is Euler's.

    With h the step, h0 the one before and r = h / h0: x += h ((1 + r / 2) v - (r / 2) v0).
    """

    def solve(self, problem: Problem) -> Integrated:
        x, last, before = problem.x, None, 0.0
        for step, (a, b) in enumerate(pairwise(problem.edges)):
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            v = problem.velocity(x, t).to(x.dtype)
            slope = v if last is None else torch.lerp(v, last, -0.5 * (b - a) / before)
            x = torch.add(x, slope, alpha=b - a)
            last, before = v, b - a
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, _evaluated(problem))


class DPMSolver(Solver):
    """DPM-Solver++(2M) (arXiv 2211.01095): exact in the linear part, second order in the predicted data over log(alpha / sigma).

    With l = log(alpha / sigma), h its step and r the step before over h,

        x_s = (sigma_s / sigma) x + (alpha_s - alpha sigma_s / sigma) D,    D = x1 + (x1 - x1_before) / (2 r).

    The first and the last step are of first order (D = x1), where alpha or sigma may be 0 and l has no bound. The last one ends
    in the predicted data. Takes a Gaussian path, from noise to data.

    Raises UserError on other paths, and backward.
    """

    gaussian: ClassVar[bool] = True
    backward: ClassVar[bool] = False

    def solve(self, problem: Problem) -> Integrated:
        path, edges, x = problem.path, problem.edges, problem.x
        if not isinstance(path, GaussianPath):
            raise UserError(f"solver {self.tag()!r}: requires a Gaussian path; use an ODE solver such as 'midpoint'")
        if edges[0] > edges[-1]:
            raise UserError(
                f"solver {self.tag()!r}: runs from noise to data only; use an ODE solver such as 'midpoint' to go back"
            )
        clock = torch.tensor(edges, dtype=torch.float64)
        alphas, sigmas = path.alpha(clock).tolist(), path.sigma(clock).tolist()
        steps = (path.alpha(clock).log() - path.sigma(clock).log()).diff().tolist()  # infinite at the ends
        before: Tensor | None = None
        for step, (a, _) in enumerate(pairwise(edges)):
            t = torch.full((len(x),), a, dtype=x.dtype, device=x.device)
            data = path.convert(problem.velocity(x, t).to(x.dtype), x, t, "velocity", "data")
            lean = 0.5 * steps[step] / steps[step - 1] if step and step < len(steps) - 1 else 0.0
            ahead = data if before is None or not lean else torch.lerp(data, before, -lean)
            shrink = sigmas[step + 1] / sigmas[step]
            x = shrink * x + (alphas[step + 1] - alphas[step] * shrink) * ahead
            before = data
            if problem.on_step is not None:
                problem.on_step(step + 1, x)
        return Integrated(x, _evaluated(problem))


def _evaluated(problem: Problem) -> Tensor:
    """(B,): one evaluation at the beginning of each step."""
    times = torch.tensor(problem.edges[:-1], dtype=torch.float64)
    return evaluations(problem.velocity, times).sum().expand(len(problem.x))
