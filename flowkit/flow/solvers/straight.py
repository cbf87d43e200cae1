"""Sampling from networks that predict the data or the noise, with exact steps that need no clip and leave no noise.

With z = x / (alpha + sigma) and tau = alpha / (alpha + sigma), every Gaussian path becomes linear: z = tau x1 + (1 - tau) x0,
with velocity x1 - x0. An Euler step there is exact if the predictions do not change; in x it reads
x_s = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x1 (DDIM, arXiv 2010.02502; DPM-Solver, arXiv 2206.00927).

Where sigma is 0, x does not determine the noise, so nothing is evaluated there: the last step is split into as many Euler
steps as the method has stages, and the last of these ends at the predicted data (as in EDM, arXiv 2206.00364).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowkit.flow.paths import GaussianPath, expand
from flowkit.flow.solvers.fixed import Euler
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, Velocity, evaluations

LAST = 1e-3  # length in t of the last step of an adaptive solver


@dataclass(frozen=True)
class StraightVelocity:
    """dz / dtau = E[x1 | x_t] - E[x0 | x_t] at z (B, ...), tau (B,), from the velocity of x in t."""

    velocity: Velocity
    path: GaussianPath

    def __call__(self, z: Tensor, tau: Tensor) -> Tensor:
        t = self.path.time(tau)
        x = expand(self.path.alpha(t) + self.path.sigma(t), z) * z
        v = self.velocity(x, t).to(z.dtype)
        return self.path.convert(v, x, t, "velocity", "data") - self.path.convert(v, x, t, "velocity", "noise")

    def evaluations(self, tau: Tensor) -> Tensor:
        return evaluations(self.velocity, self.path.time(tau))


def solve_straight(solver: Solver, problem: Problem, *, to_end: bool = True) -> Integrated:
    """Solve as `solver.solve`, forward on a Gaussian path. "sde" is unchanged: its last step already is the predicted data.

    to_end: whether the problem ends at the data, where sigma may be 0, or before.
    """
    path, edges, told = problem.path, problem.edges, problem.on_step
    assert isinstance(path, GaussianPath) and edges[0] < edges[-1]
    if solver.adaptive and to_end and edges[0] >= edges[-1] - LAST:  # shorter than the last step
        solver = Euler()
    if solver.adaptive and to_end:
        near, attempts = edges[-1] - LAST, 0

        def on_step(attempt: int, x: Tensor) -> None:
            nonlocal attempts
            attempts = attempt
            if told is not None:
                told(attempt, x)

        x, nfe = solver.solve(replace(problem, edges=[edges[0], near], on_step=on_step))
        last = None if told is None else lambda step, x: told(attempts + step, x)
        x, spent = solve_straight(Euler(), replace(problem, x=x, edges=[near, edges[-1]], on_step=last))
        return Integrated(x, nfe + spent)
    if solver.adaptive or solver.gaussian or solver.averages:  # the last two take exact steps of their own
        return solver.solve(problem)
    t = torch.tensor(edges, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    scales, taus = (alpha + sigma).tolist(), (alpha / (alpha + sigma)).tolist()
    field, z, nfe = StraightVelocity(problem.velocity, path), problem.x / scales[0], 0
    if not to_end:
        step = None if told is None else lambda step, z: told(step, scales[step] * z)
        z, nfe = solver.solve(Problem(field, z, taus, on_step=step))
        return Integrated(scales[-1] * z, nfe)
    if len(edges) > 2:
        head = None if told is None else lambda step, z: told(step, scales[step] * z)
        z, nfe = solver.solve(Problem(field, z, taus[:-1], on_step=head))
    parts = solver.stages
    z, spent = Euler().solve(
        Problem(field, z, [taus[-2] + (taus[-1] - taus[-2]) * i / parts for i in range(parts + 1)])
    )
    x = scales[-1] * z
    if told is not None:
        told(len(edges) - 1, x)
    return Integrated(x, nfe + spent)
