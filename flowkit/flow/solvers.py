"""Fixed-step explicit Runge-Kutta integration of dx/dt = velocity(x, t). A solver is its Butcher tableau."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flowkit.errors import UserError, listing, nearest


@dataclass(frozen=True)
class Tableau:
    """Stage i is evaluated at t + nodes[i] h and x + h sum_j stages[i][j] k_j; the step is h sum_i weights[i] k_i."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SOLVERS = {
    "euler": Tableau((0.0,), ((),), (1.0,)),
    "midpoint": Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    *,
    solver: str = "heun",
    steps: int = 25,
    t0: float = 0.0,
    t1: float = 1.0,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, int]:
    """Follow `velocity(x (B, ...), t (B,))` from x at t0 to t1 (t1 < t0 goes backward) in equal steps: (x at t1, NFE).

    The state is fp32, or fp64 where x is. NFE counts network evaluations for each sample: the velocity's calls times
    its `evaluations` (2 under guidance; 1 where it does not say). `on_step(steps done, x)` follows every step.
    Gradients flow unless the caller turns them off. Nothing here waits on the device.

    Raises UserError for an unknown solver or steps < 1.
    """
    if solver not in SOLVERS:
        raise UserError(f"unknown solver {solver!r}; known are {listing(SOLVERS)}{nearest(solver, SOLVERS)}")
    if steps < 1:
        raise UserError(f"the number of solver steps is {steps}; expected at least 1")
    tableau = SOLVERS[solver]
    x = x if x.dtype == torch.float64 else x.float()
    h = (t1 - t0) / steps
    times = _stage_times(tableau, steps, t0, t1, x)
    for step in range(steps):
        slopes: list[Tensor] = []
        for row, t in zip(tableau.stages, times[step], strict=True):
            slopes.append(velocity(_advance(x, h, row, slopes), t).to(x.dtype))
        x = _advance(x, h, tableau.weights, slopes)
        if on_step is not None:
            on_step(step + 1, x)
    return x, steps * len(tableau.nodes) * getattr(velocity, "evaluations", 1)


def _advance(x: Tensor, h: float, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = torch.add(x, slope, alpha=h * weight)
    return x


def _stage_times(tableau: Tableau, steps: int, t0: float, t1: float, x: Tensor) -> list[tuple[Tensor, ...]]:
    """times[step][stage] (B,), computed in double precision and moved to the device once for the whole trajectory."""
    edges = [t0 + (t1 - t0) * step / steps for step in range(steps)] + [t1]
    # (1 - c) a + c b, because a + c (b - a) may miss b by a rounding and leave [0, 1].
    times = [[(1 - c) * a + c * b for c in tableau.nodes] for a, b in pairwise(edges)]
    table = torch.tensor(times, dtype=x.dtype).to(x.device)[..., None].expand(-1, -1, len(x)).contiguous()
    return [step.unbind(0) for step in table.unbind(0)]
