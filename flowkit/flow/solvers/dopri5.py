"""Dormand and Prince's adaptive method of order 5(4), with a time and a step size for each row.

Error norms and initial steps as in Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.paths import expand
from flowkit.flow.solvers.problem import Integrated, Problem, Velocity, evaluations

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (
        35 / 384,
        0.0,
        500 / 1113,
        125 / 192,
        -2187 / 6784,
        11 / 84,
    ),  # the solution itself: the last slope is the next first
)
# The fifth-order solution less the embedded fourth-order one.
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
ORDER = 5
SMALLEST = 1e-13  # step in t: what asks for less is not finite, or not continuous
ROUNDINGS = 8  # rtol is at least so many units of the state's last place: below that, errors are rounding


class _Rows(NamedTuple):
    """The rows still under way: everything here is (b, ...); t and h, which is signed, are float64 where there is such."""

    x: Tensor
    slope: Tensor  # at (x, t): the last stage of the step before
    t: Tensor
    h: Tensor
    place: Tensor  # of the row in the batch

    def take(self, rows: Tensor) -> _Rows:
        return _Rows(*(part[rows] for part in self))


@dataclass(frozen=True)
class Dopri5:
    """Each row keeps its own time and step size, so what becomes of it does not depend on its company.

    A row that has arrived is evaluated no more. The error of a step, a root mean square over the row's elements, is kept
    below atol + rtol |x|; in fp32, rtol is taken to be at least 1e-6. No gradients flow. Waits on the device once a step.

    Raises UserError for settings out of range, for a row that needs more than `max_steps` attempts, and for a velocity
    that is not finite.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000

    def __post_init__(self):
        for name in ("rtol", "atol"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"solver 'dopri5': {name} is {getattr(self, name)}; expected a number above 0")
        if self.max_steps < 1:
            raise UserError(f"solver 'dopri5': max_steps is {self.max_steps}; expected at least 1")

    @torch.no_grad()
    def solve(self, problem: Problem) -> Integrated:
        start, end = problem.edges[0], problem.edges[-1]
        if start == end or not len(problem.x):
            return Integrated(problem.x, torch.zeros(len(problem.x), dtype=torch.int64))
        velocity, whole = problem.velocity, problem.x.clone()
        nfe = torch.zeros(len(whole), dtype=torch.int64, device=whole.device)
        rows = self._begin(problem, start, end, nfe)
        for attempt in range(1, self.max_steps + 1):
            rows, arrived = self._attempt(velocity, rows, start, end, nfe)
            stuck = ~arrived & (rows.h.abs() < SMALLEST)
            some_arrived, some_stuck = torch.stack((arrived.any(), stuck.any())).tolist()  # the one wait of a step
            if some_stuck:
                raise UserError(_no_way_on(rows.take(stuck.nonzero().squeeze(1)), len(whole)))
            if some_arrived:
                whole[rows.place[arrived]] = rows.x[arrived]
                left = (~arrived).nonzero().squeeze(1)
                rows = rows.take(left)
                velocity = _of_rows(problem.velocity, rows.place, whole)
            if problem.on_step is not None:
                problem.on_step(attempt, whole.index_copy(0, rows.place, rows.x))
            if not len(rows.t):
                return Integrated(whole, nfe.cpu())
        raise UserError(
            f"solver 'dopri5': {len(rows.t)} of {len(whole)} rows are not there after max_steps = {self.max_steps} attempts "
            f"(the first is at t = {float(rows.t[0]):.4g} on its way from {start:g} to {end:g}); raise max_steps, rtol and "
            "atol, or use a solver with fixed steps"
        )

    def _begin(self, problem: Problem, start: float, end: float, nfe: Tensor) -> _Rows:
        """The first slopes, and steps small enough for their size and change (Hairer's rule)."""
        x, velocity = problem.x, problem.velocity
        t = torch.full((len(x),), start, dtype=_clock(x), device=x.device)
        slope = _call(velocity, x, t)
        size = self._tolerance(x, x)
        d0, d1 = _rms(x / size), _rms(slope / size)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp_max(abs(end - start)).to(t.dtype)
        forth = math.copysign(1.0, end - start)
        there = x + expand(forth * h0, x).to(x.dtype) * slope
        d2 = _rms((_call(velocity, there, t + forth * h0) - slope) / size) / h0
        _count(nfe, velocity, [t, t + forth * h0], slice(None))
        steepest = torch.maximum(d1, d2)
        h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp_min(1e-6), (0.01 / steepest) ** (1 / ORDER))
        h = torch.minimum(100 * h0, h1.to(t.dtype)).nan_to_num(1e-6)
        return _Rows(x, slope, t, forth * h, torch.arange(len(x), device=x.device))

    def _attempt(self, velocity: Velocity, rows: _Rows, start: float, end: float, nfe: Tensor) -> tuple[_Rows, Tensor]:
        """One step tried by every row, taken where its error allows: the rows after it, and which have arrived (b,)."""
        x, t = rows.x, rows.t
        left = end - t
        last = left.abs() <= 1.01 * rows.h.abs()  # stretched a little, sooner than leave a sliver for another step
        h = torch.where(last, left, rows.h)
        step, low, high = expand(h, x).to(x.dtype), min(start, end), max(start, end)
        times = [(t + node * h).clamp_(low, high) for node in NODES[1:-1]]
        times.append(times[-1])  # the last two stages are at the same time
        slopes, there, table = x.new_empty(len(NODES), x.numel()), x, _coefficients(x)
        slopes[0] = rows.slope.reshape(-1)
        for i, time in enumerate(times, start=1):
            there = torch.addcmul(x, step, (table[i - 1] @ slopes[:i]).view_as(x))
            slopes[i] = _call(velocity, there, time).reshape(-1)
        _count(nfe, velocity, times, rows.place)
        error = _rms(step * (table[-1] @ slopes).view_as(x) / self._tolerance(x, there))
        error = error.nan_to_num(math.inf, math.inf)  # what is not finite is too far
        good = error <= 1
        factor = (SAFETY * error.clamp_min(1e-10) ** (-1 / ORDER)).clamp(SHRINK, GROW)  # below 1 where it is not good
        moved = expand(good, x)
        after = _Rows(
            torch.where(moved, there, x), torch.where(moved, slopes[-1].view_as(x), rows.slope),
            torch.where(good, torch.where(last, end, times[-1]), t), h * factor, rows.place,
        )  # fmt: skip
        return after, good & last

    def _tolerance(self, x: Tensor, there: Tensor) -> Tensor:
        rtol = max(self.rtol, ROUNDINGS * torch.finfo(x.dtype).eps)
        return self.atol + rtol * torch.maximum(x.abs(), there.abs())


def _no_way_on(rows: _Rows, count: int) -> str:
    finite = bool(rows.slope.isfinite().all())
    why = "no step is small enough for its tolerance" if finite else "the velocity is not finite there"
    return f"solver 'dopri5': {len(rows.t)} of {count} rows come to a stop (the first at t = {float(rows.t[0]):.4g}): {why}"


def _call(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    return velocity(x, t.to(x.dtype)).to(x.dtype)


def _count(nfe: Tensor, velocity: Velocity, times: list[Tensor], places: Tensor | slice) -> None:
    """Add what calling `velocity` at those times costs the rows at `places`."""
    spent: int | Callable[[Tensor], Tensor] = getattr(velocity, "evaluations", 1)
    nfe[places] += torch.stack([spent(t) for t in times]).sum(0) if callable(spent) else spent * len(times)


@dataclass(frozen=True)
class _Scattered:
    """A velocity that cannot be had for fewer rows than it was made for: the others are called at where they ended."""

    velocity: Velocity
    index: Tensor
    whole: Tensor

    def evaluations(self, t: Tensor) -> Tensor:
        return evaluations(self.velocity, self._all_times(t))[self.index]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.velocity(self.whole.index_copy(0, self.index, x), self._all_times(t))[self.index]

    def _all_times(self, t: Tensor) -> Tensor:
        return t[:1].expand(len(self.whole)).index_copy(0, self.index, t)


def _of_rows(velocity: Velocity, index: Tensor, whole: Tensor) -> Velocity:
    take = getattr(velocity, "take", None)
    return _Scattered(velocity, index, whole) if take is None else take(index)


_TABLES: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}


def _coefficients(x: Tensor) -> list[Tensor]:
    """The rows of the tableau and the error's as vectors, kept by dtype and device."""
    where = (x.dtype, x.device)
    if where not in _TABLES:
        with torch.inference_mode(False):
            _TABLES[where] = [torch.tensor(row, dtype=x.dtype, device=x.device) for row in (*STAGES, ERROR)]
    return _TABLES[where]


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _clock(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
