"""What a solver is given and what it gives back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from flowkit.components import Component
from flowkit.flow.paths import Path

# (x (B, ...), t (B,)) -> (B, ...). It may have, besides:
#   evaluations: int, or t (B,) -> (B,): network evaluations that a call costs each row; 1 where it does not say;
#   over(span: float) -> Velocity: its average over an interval of that length that begins at t, for "mean_flow";
#   take(rows (b,) int64) -> Velocity: the same for some of the rows, where it holds things a row (labels, conditions);
#   breaks: times at which it jumps, no step goes across them; between(low, high) -> Velocity: it from one to the next;
#   begins: float: x stands still below this t.
Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Follow `velocity` from x (B, ...) at edges[0] to edges[-1]."""

    velocity: Velocity
    x: Tensor  # fp32 or fp64
    edges: list[float]  # of the steps; solvers that choose their own use the ends alone
    path: Path | None = None  # for solvers that need the data or the score from the velocity
    noise: Callable[[int], Tensor] | None = None  # step -> (B, ...) unit normals, for stochastic solvers
    on_step: Callable[[int, Tensor], None] | None = None  # told the number of steps done, and x


class Integrated(NamedTuple):
    """x (B, ...) at the end, and what each row cost: nfe (B,) int64 network evaluations, on the CPU."""

    x: Tensor
    nfe: Tensor


class Solver(Component):
    adaptive: ClassVar[bool] = False  # chooses its steps for itself; else they are the problem's edges
    stochastic: ClassVar[bool] = False  # needs the score and noise; its samples do not follow from where they start
    averages: ClassVar[bool] = False  # needs a network of average velocities
    gaussian: ClassVar[bool] = False  # needs a Gaussian path
    backward: ClassVar[bool] = True  # follows the flow from data to noise, too
    stages: ClassVar[int] = 1  # network evaluations in a step of a fixed length

    @property
    def words(self) -> str:
        """For messages: `dopri5 to 1e-05`."""
        return self.tag()

    @abstractmethod
    def solve(self, problem: Problem) -> Integrated:
        """Raises UserError for what it cannot do."""


def evaluations(velocity: Velocity, t: Tensor) -> Tensor:
    """Network evaluations (B,) int64 that calling `velocity` at t (B,) costs each row, on t's device."""
    count: int | Callable[[Tensor], Tensor] = getattr(velocity, "evaluations", 1)
    return count(t) if callable(count) else torch.full(t.shape, count, device=t.device)
