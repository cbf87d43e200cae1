"""Grids of solver times on [0, 1]: where fixed-step solvers and the SDE put their steps. Pure Python, in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from flowkit.errors import UserError
from flowkit.flow.choices import Choice, choose


class Grid(Protocol):
    def __call__(self, steps: int) -> list[float]:
        """Rising times from 0 to 1, ends included."""
        ...


@dataclass(frozen=True)
class Uniform:
    def __call__(self, steps: int) -> list[float]:
        return [step / steps for step in range(steps + 1)]


@dataclass(frozen=True)
class Shifted:
    """t / (t + shift (1 - t)): above 1 more steps near the noise, below near the data (arXiv 2403.03206, equation 23)."""

    shift: float = 3.0

    def __post_init__(self):
        _positive("shifted", "shift", self.shift)

    def __call__(self, steps: int) -> list[float]:
        return [t / (t + self.shift * (1 - t)) for t in Uniform()(steps)]


@dataclass(frozen=True)
class Power:
    """t ** exponent: above 1 more steps near the noise, below near the data."""

    exponent: float = 2.0

    def __post_init__(self):
        _positive("power", "exponent", self.exponent)

    def __call__(self, steps: int) -> list[float]:
        return [t**self.exponent for t in Uniform()(steps)]


@dataclass(frozen=True)
class Custom:
    """The times themselves, 0 and 1 included; the number of steps is then theirs."""

    times: Sequence[float]

    def __post_init__(self):
        times = tuple(self.times)
        if len(times) < 2 or times[0] != 0 or times[-1] != 1 or not all(a < b for a, b in pairwise(times)):
            raise UserError(f"grid 'custom': times are {list(times)}; expected rising numbers from 0.0 to 1.0")

    def __call__(self, steps: int) -> list[float]:
        return list(self.times)


GRIDS = {"uniform": Uniform, "shifted": Shifted, "power": Power, "custom": Custom}


def grid_edges(grid: Choice, steps: int, t0: float, t1: float) -> list[float]:
    """The times of a trajectory from t0 to t1. Backward (t1 < t0) they are those of the way forward, reversed.

    Raises UserError for an unknown grid, a setting out of range, or steps < 1.
    """
    if steps < 1:
        raise UserError(f"the number of solver steps is {steps}; expected at least 1")
    low, high = min(t0, t1), max(t0, t1)
    # Not low + g (high - low), which may miss `high` by a rounding and leave the interval.
    edges = [(1 - g) * low + g * high for g in choose("grid", GRIDS, grid, {})(steps)]
    return edges if t1 >= t0 else edges[::-1]


def _positive(grid: str, name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"grid {grid!r}: {name} is {value}; expected a number above 0")
