"""Solvers of dx/dt = velocity(x, t), and of the SDE with its marginals, by name. A new one is a class with `solve`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.flow.choices import Choice, choose
from flowkit.flow.grids import grid_edges
from flowkit.flow.paths import Path
from flowkit.flow.solvers.dopri5 import Dopri5
from flowkit.flow.solvers.fixed import RK4, Euler, Heun, Midpoint
from flowkit.flow.solvers.mean_flow import MeanFlowSolver
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, Velocity
from flowkit.flow.solvers.sde import SDE
from flowkit.flow.solvers.straight import solve_straight

FIXED = {"euler": Euler, "midpoint": Midpoint, "heun": Heun, "rk4": RK4}
SOLVERS: dict[str, Callable[..., Solver]] = {**FIXED, "dopri5": Dopri5, "sde": SDE, "mean_flow": MeanFlowSolver}

__all__ = ["FIXED", "SOLVERS", "Integrated", "Problem", "Solver", "Velocity", "get_solver", "integrate"]


def get_solver(choice: Choice) -> Solver:
    """A solver by name, or by a table with its settings. Raises UserError."""
    return choose("solver", SOLVERS, choice, {})


def integrate(
    velocity: Velocity,
    x: Tensor,
    *,
    solver: Choice = "midpoint",
    steps: int = 25,
    grid: Choice = "uniform",
    t0: float = 0.0,
    t1: float = 1.0,
    path: Path | None = None,
    straight: bool = False,
    noise: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Integrated:
    """Follow `velocity(x (B, ...), t (B,))` from x at t0 to t1 (t1 < t0 goes backward): (x at t1, NFE by row).

    The state is fp32, or fp64 where x is. steps and grid are of solvers with fixed steps; "dopri5" chooses its own. path and
    noise(step) -> (B, ...) unit normals are for "sde" alone. NFE counts network evaluations: the velocity's calls times its
    `evaluations` (see `Velocity`). `on_step(steps done, x)` follows every step. straight: for velocities that come from
    predictions of the data or the noise without a clip, on a Gaussian path and forward to t = 1: see `solve_straight`.

    Raises UserError for unknown names and settings, steps < 1, and as the solver says.
    """
    x = x if x.dtype == torch.float64 else x.float()
    problem = Problem(velocity, x, grid_edges(grid, steps, t0, t1), path, noise, on_step)
    return solve_straight(get_solver(solver), problem) if straight else get_solver(solver).solve(problem)
