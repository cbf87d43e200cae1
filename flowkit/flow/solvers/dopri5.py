"""Dormand and Prince's adaptive method of order 5(4), with a time and step size per row.

Error norms and initial steps follow Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.paths import expand
from flowkit.flow.solvers.problem import Integrated, Problem, Solver, Velocity, evaluations

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
    ),  # the solution itself; the last slope is the first of the next step
)
# The fifth-order solution minus the embedded fourth-order one.
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
ORDER = 5
SMALLEST = 1e-13  # smallest step in t; smaller ones mean a velocity that is not finite or not continuous
ROUNDINGS = 8  # lower limit of rtol, in units of the state's precision; smaller errors are rounding


class _Rows(NamedTuple):
    """The rows still being integrated: all fields are (b, ...). t and h, which is signed, are float64 if available."""

    x: Tensor
    slope: Tensor  # at (x, t): the last stage of the previous step
    t: Tensor
    h: Tensor
    place: Tensor  # index of the row in the batch
    nfe: Tensor  # so far

    def take(self, rows: Tensor) -> _Rows:
        return _Rows(*(part.index_select(0, rows) for part in self))


class Dopri5(Solver):
    """Each row has its own time and step size: in exact arithmetic, its result is independent of the rest of the batch.

    In floating point, matrix products of another size round differently. If the tolerance resolves the field, only rounding
    differs. Otherwise (times embedded with frequencies of 1000 and steps of 0.02) step sizes and decisions change, and results
    differ by as much as their error: by a few 1e-3 at 1e-5, for the DiT of sentences.

    Finished rows are not evaluated any more. The estimated error of a step, an RMS over the row's elements, is kept below
    atol + rtol |x|. Errors of steps add up, and the estimate is too low for fields that are rough within a step. In fp32, rtol is
    at least 1e-6. No gradients. Syncs with the device once per step.

    Raises UserError for a row that needs more than `max_steps` attempts, or a velocity that is not finite.
    """

    adaptive: ClassVar[bool] = True
    rtol: float = Field(default=1e-5, gt=0, description="relative tolerance")
    atol: float = Field(default=1e-5, gt=0, description="absolute tolerance")
    max_steps: int = Field(default=1000, ge=1, description="maximum number of attempted steps")

    @property
    def words(self) -> str:
        return f"{self.tag()} to {self.rtol:g}"

    def solve(self, problem: Problem) -> Integrated:
        start, end = problem.edges[0], problem.edges[-1]
        if start == end or not len(problem.x):
            return Integrated(problem.x, torch.zeros(len(problem.x), dtype=torch.int64))
        velocity, whole, rows = problem.velocity, problem.x.clone(), self._begin(problem, start, end)
        nfe = torch.zeros_like(rows.nfe)
        for attempt in range(1, self.max_steps + 1):
            rows, arrived = self._attempt(velocity, rows, start, end)
            stuck = ~arrived & (rows.h.abs() < SMALLEST)
            some_arrived, some_stuck = torch.stack((arrived, stuck)).any(1).tolist()  # the only sync of a step
            if some_stuck:
                raise UserError(_no_way_on(rows.take(stuck.nonzero().squeeze(1)), len(whole)))
            if some_arrived:
                whole.index_copy_(0, rows.place, rows.x)
                nfe.index_copy_(0, rows.place, rows.nfe)
                rows = rows.take((~arrived).nonzero().squeeze(1))
                if len(rows.t):
                    velocity = _of_rows(problem.velocity, rows.place, whole)
            if problem.on_step is not None:
                problem.on_step(attempt, whole.index_copy(0, rows.place, rows.x))
            if not len(rows.t):
                return Integrated(whole, nfe.cpu())
        raise UserError(
            f"solver 'dopri5': {len(rows.t)} of {len(whole)} rows are not done after max_steps = {self.max_steps} attempts "
            f"(the first is at t = {float(rows.t[0]):.4g}, between {start:g} and {end:g}); raise max_steps, rtol and "
            "atol, or use a solver with fixed steps"
        )

    def _begin(self, problem: Problem, start: float, end: float) -> _Rows:
        """Return the first slopes and initial steps (Hairer's rule)."""
        x, velocity = problem.x, problem.velocity
        t = torch.full((len(x),), start, dtype=_clock(x), device=x.device)
        slope = _call(velocity, x, t.to(x.dtype))
        size = self._tolerance(x, x)
        d0, d1 = _rms(x / size), _rms(slope / size)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp_max(abs(end - start)).to(t.dtype)
        forth = math.copysign(1.0, end - start)
        there = x + expand(forth * h0, x).to(x.dtype) * slope
        d2 = _rms((_call(velocity, there, (t + forth * h0).to(x.dtype)) - slope) / size) / h0
        nfe = _spent(velocity, torch.stack((t, t + forth * h0)).to(x.dtype))
        steepest = torch.maximum(d1, d2)
        h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp_min(1e-6), (0.01 / steepest) ** (1 / ORDER))
        h = torch.minimum(100 * h0, h1.to(t.dtype)).nan_to_num(1e-6)
        return _Rows(x, slope, t, forth * h, torch.arange(len(x), device=x.device), nfe)

    def _attempt(self, velocity: Velocity, rows: _Rows, start: float, end: float) -> tuple[_Rows, Tensor]:
        """Attempt one step for every row, accepted if its error allows. Return the rows, and which are done (b,)."""
        x, t, tableau = rows.x, rows.t, _tableau(rows.x)
        left = end - t
        last = left / rows.h <= 1.01  # stretch the step a little rather than leave a tiny last one
        h = torch.where(last, left, rows.h)
        step, times = (
            expand(h, x).to(x.dtype),
            torch.addcmul(t, tableau.nodes, h).clamp_(min(start, end), max(start, end)),
        )
        asked = times.to(x.dtype)
        slopes, there = x.new_empty(len(NODES), x.numel()), x
        slopes[0] = rows.slope.reshape(-1)
        for i, (weights, time) in enumerate(zip(tableau.stages, asked.unbind(), strict=True), start=1):
            there = torch.addcmul(x, step, torch.mv(slopes[:i].T, weights).view_as(x))
            slopes[i] = _call(velocity, there, time).reshape(-1)
        gap = torch.mv(slopes.T, tableau.error).view_as(x).div_(self._tolerance(x, there))
        error = (_rms(gap) * h.abs()).nan_to_num(math.inf, math.inf)  # errors that are not finite are rejected
        good = error <= 1
        factor = error.pow(-1 / ORDER).mul_(SAFETY).clamp_(SHRINK, GROW)  # below 1 for a rejected step
        moved = expand(good, x)
        after = _Rows(
            torch.where(moved, there, x), torch.where(moved, slopes[-1].view_as(x), rows.slope),
            torch.where(good, torch.where(last, end, times[-1]), t), h * factor, rows.place,
            rows.nfe + _spent(velocity, asked),
        )  # fmt: skip
        return after, good & last

    def _tolerance(self, x: Tensor, there: Tensor) -> Tensor:
        rtol = max(self.rtol, ROUNDINGS * torch.finfo(x.dtype).eps)
        return torch.maximum(x.abs(), there.abs()).mul_(rtol).add_(self.atol)


def _no_way_on(rows: _Rows, count: int) -> str:
    finite = bool(rows.slope.isfinite().all())
    why = "no step is small enough for the tolerance" if finite else "the velocity is not finite there"
    return f"solver 'dopri5': {len(rows.t)} of {count} rows are stuck (the first at t = {float(rows.t[0]):.4g}): {why}"


def _call(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    return velocity(x, t).to(x.dtype)


def _spent(velocity: Velocity, times: Tensor) -> Tensor:
    """Return (b,) int64: the cost per row of calling `velocity` at the times (calls, b)."""
    count: int | Callable[[Tensor], Tensor] = getattr(velocity, "evaluations", 1)
    if callable(count):
        return torch.stack([count(t) for t in times]).sum(0)
    return torch.full(times.shape[1:], len(times) * count, device=times.device)


@dataclass(frozen=True)
class _Scattered:
    """A velocity that cannot be evaluated for fewer rows: finished rows are evaluated where they ended."""

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


class _Tableau(NamedTuple):
    """The stages after the first: nodes (6, 1) in the clock's precision; weights (i,) of stage i and error (7,) in x's."""

    nodes: Tensor
    stages: list[Tensor]
    error: Tensor


_TABLEAUX: dict[tuple[torch.dtype, torch.device], _Tableau] = {}


def _tableau(x: Tensor) -> _Tableau:
    """Return the tableau, cached by dtype and device."""
    where = (x.dtype, x.device)
    if where not in _TABLEAUX:
        with torch.inference_mode(False):
            nodes = torch.tensor(NODES[1:], dtype=_clock(x), device=x.device)[:, None]
            *stages, error = (torch.tensor(row, dtype=x.dtype, device=x.device) for row in (*STAGES, ERROR))
            _TABLEAUX[where] = _Tableau(nodes, stages, error)
    return _TABLEAUX[where]


def _rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1) / math.sqrt(x[0].numel())


def _clock(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
