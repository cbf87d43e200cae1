"""The input and output of solvers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from flowkit.components import Component
from flowkit.flow.paths import Path

# (x (B, ...), t (B,)) -> (B, ...). Optional attributes:
#   evaluations: int, or t (B,) -> (B,): network evaluations per row and call; 1 by default
#   over(span: float) -> Velocity: its average over an interval of that length starting at t, for "mean_flow"
#   take(rows (b,) int64) -> Velocity: the velocity for some of the rows, if it holds data per row (labels, conditions)
#   breaks: times where it jumps, which no step crosses; between(low, high) -> Velocity: the velocity between two of them
#   begins: float: x does not move below this t
Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Follow `velocity` from x (B, ...) at edges[0] to edges[-1]."""

    velocity: Velocity
    x: Tensor  # fp32 or fp64
    edges: list[float]  # step times; adaptive solvers use only the ends
    path: Path | None = None  # for solvers that convert the velocity to the data or the score
    noise: Callable[[int], Tensor] | None = None  # step -> (B, ...) unit normals, for stochastic solvers
    on_step: Callable[[int, Tensor], None] | None = None  # called with the number of steps done, and x


class Integrated(NamedTuple):
    """x (B, ...) at the end, and the cost per row: nfe (B,) int64 network evaluations, on the CPU."""

    x: Tensor
    nfe: Tensor


class Solver(Component):
    adaptive: ClassVar[bool] = False  # whether it chooses its own steps
    stochastic: ClassVar[bool] = False  # whether it needs the score and noise
    averages: ClassVar[bool] = False  # whether it needs a network that predicts average velocities
    gaussian: ClassVar[bool] = False  # whether it needs a Gaussian path
    backward: ClassVar[bool] = True  # whether it also integrates from data to noise
    stages: ClassVar[int] = 1  # network evaluations per step

    @property
    def words(self) -> str:
        """Description for messages: `dopri5 to 1e-05`."""
        return self.tag()

    @abstractmethod
    def solve(self, problem: Problem) -> Integrated:
        """Solve the problem. Raises UserError for what the solver cannot do."""


def evaluations(velocity: Velocity, t: Tensor) -> Tensor:
    """Return the network evaluations (B,) int64 per row of calling `velocity` at t (B,), on t's device."""
    count: int | Callable[[Tensor], Tensor] = getattr(velocity, "evaluations", 1)
    return count(t) if callable(count) else torch.full(t.shape, count, device=t.device)


@dataclass(frozen=True)
class Wrapped:
    """A velocity made from another one, with the other one's optional attributes (see `Velocity`). Subclasses are called."""

    velocity: Velocity

    @property
    def breaks(self) -> tuple[float, ...]:
        return getattr(self.velocity, "breaks", ())

    def between(self, low: float, high: float) -> Self:
        between = getattr(self.velocity, "between", None)
        return self if between is None else replace(self, velocity=between(low, high))

    @property
    def begins(self) -> float:
        return getattr(self.velocity, "begins", 0.0)

    def evaluations(self, t: Tensor) -> Tensor:
        return evaluations(self.velocity, t)

    def take(self, rows: Tensor) -> Self:
        take = getattr(self.velocity, "take", None)
        assert take is not None, "a model's velocity can be evaluated for some of its rows"
        return replace(self, velocity=take(rows))
