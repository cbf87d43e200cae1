"""Solvers of dx/dt = velocity(x, t), and of the SDE with the same marginals. A new one is a `Solver` with `solve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowkit.components import choose
from flowkit.flow.grids import Grid, grid_edges
from flowkit.flow.paths import Path
from flowkit.flow.solvers.dopri5 import Dopri5
from flowkit.flow.solvers.fixed import RK4, Euler, Heun, Midpoint
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, Velocity
from flowkit.flow.solvers.straight import solve_straight

SAME = 1e-9  # times that differ by less are equal

__all__ = ["RK4", "Dopri5", "Euler", "Heun", "Integrated", "Midpoint", "Problem", "Solver", "Velocity", "integrate"]


def integrate(
    velocity: Velocity,
    x: Tensor,
    *,
    solver: Solver | str | Mapping[str, Any] = "midpoint",
    steps: int = 25,
    grid: Grid | str | Mapping[str, Any] = "uniform",
    t0: float = 0.0,
    t1: float = 1.0,
    path: Path | None = None,
    straight: bool = False,
    noise: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Integrated:
    """Follow `velocity(x (B, ...), t (B,))` from x at t0 to t1 (backward if t1 < t0): (x at t1, NFE per row).

    The state is fp32, or fp64 if x is. steps and grid: for solvers with fixed steps; "dopri5" chooses its own. path and
    noise(step) -> (B, ...) unit normals: for "sde" only. NFE counts network evaluations: the velocity's calls times its
    `evaluations` (see `Velocity`). `on_step(steps done, x)` is called after every step. straight: for velocities from unclipped
    predictions of the data or noise, on a Gaussian path and forward to t = 1; see `solve_straight`.

    At jumps of the velocity (`breaks`) the solver restarts, and a step across one is split in two. Steps that start where x does
    not move (below `begins`) are skipped, except the last; "dopri5" starts there.

    Raises UserError for unknown names and settings, steps < 1, and as the solver.
    """
    x = x if x.dtype == torch.float64 else x.float()
    method, edges = choose("solver", solver), grid_edges(grid, steps, t0, t1)
    breaks: tuple[float, ...] = getattr(velocity, "breaks", ())
    begins: float = getattr(velocity, "begins", 0.0)

    def solve(problem: Problem) -> Integrated:
        return (
            solve_straight(method, problem, to_end=problem.edges[-1] == edges[-1])
            if straight
            else method.solve(problem)
        )

    if not breaks and not begins:
        return solve(Problem(velocity, x, edges, path, noise, on_step))
    nfe = torch.zeros(len(x), dtype=torch.int64)
    done = 0

    def told(step: int, x: Tensor) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, x)

    for piece in _pieces(edges, breaks, begins, fixed=not method.adaptive):
        later = None if noise is None else (lambda step, before=done, noise=noise: noise(before + step))
        part = velocity.between(min(piece[0], piece[-1]), max(piece[0], piece[-1]))  # pyright: ignore[reportFunctionMemberAccess]
        x, spent = solve(Problem(part, x, piece, path, later, told))
        nfe = nfe + spent
    return Integrated(x, nfe)


def _pieces(edges: list[float], breaks: tuple[float, ...], begins: float, *, fixed: bool) -> list[list[float]]:
    """Return the edges of each piece, in order. The last edge of a piece is the first of the next."""
    rising = sorted(edges)
    if not fixed:
        rising = [min(max(rising[0], begins), rising[-1]), rising[-1]]
    else:
        rising = [t for t in rising[:-2] if t > begins - SAME] + rising[-2:]
    pieces = [rising[:1]]
    for a, b in pairwise(rising):
        for cut in sorted(cut for cut in breaks if a + SAME < cut < b - SAME):
            pieces[-1].append(cut)
            pieces.append([cut])
        pieces[-1].append(b)
        if b < rising[-1] and any(abs(b - cut) <= SAME for cut in breaks):
            pieces.append([b])
    return pieces if edges[0] <= edges[-1] else [piece[::-1] for piece in pieces[::-1]]
