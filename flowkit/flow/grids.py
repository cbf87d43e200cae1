"""Grids of solver times on [0, 1]: where fixed-step solvers and the SDE put their steps. Pure Python, in double precision."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from flowkit.components import Component, choose
from flowkit.errors import UserError
from flowkit.settings import AS_TUPLE, Says


def _rising(times: tuple[float, ...]) -> tuple[float, ...]:
    if times[0] != 0 or times[-1] != 1 or any(a >= b for a, b in pairwise(times)):
        raise PydanticCustomError("said", "{text}", {"text": f"{list(times)} do not rise from 0.0 to 1.0"})
    return times


Times = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    AS_TUPLE, Field(min_length=2), AfterValidator(_rising), Says("a list of rising numbers from 0.0 to 1.0"),
]  # fmt: skip


class Grid(Component):
    @abstractmethod
    def __call__(self, steps: int) -> list[float]:
        """Rising times from 0 to 1, ends included."""

    def steps(self, asked: int) -> int:
        """How many steps there are where so many are asked for."""
        return asked


class Uniform(Grid):
    def __call__(self, steps: int) -> list[float]:
        return [step / steps for step in range(steps + 1)]


class Shifted(Grid):
    """t / (t + shift (1 - t)): above 1 more steps near the noise, below near the data (arXiv 2403.03206, equation 23)."""

    shift: float = Field(default=3.0, gt=0, description="above 1 more steps near the noise, below near the data")

    def __call__(self, steps: int) -> list[float]:
        return [t / (t + self.shift * (1 - t)) for t in Uniform()(steps)]


class Power(Grid):
    """t ** exponent: above 1 more steps near the noise, below near the data."""

    exponent: float = Field(default=2.0, gt=0, description="t ** exponent: above 1 more steps near the noise")

    def __call__(self, steps: int) -> list[float]:
        return [t**self.exponent for t in Uniform()(steps)]


class Custom(Grid):
    """The times themselves, 0 and 1 included; the number of steps is then theirs."""

    times: Times = Field(description="the times themselves, in place of steps")

    def __call__(self, steps: int) -> list[float]:
        return list(self.times)

    def steps(self, asked: int) -> int:
        return len(self.times) - 1


def grid_edges(grid: Grid | str | Mapping[str, Any], steps: int, t0: float, t1: float) -> list[float]:
    """The times of a trajectory from t0 to t1. Backward (t1 < t0) they are those of the way forward, reversed.

    Raises UserError for an unknown grid, a setting out of range, or steps < 1.
    """
    if steps < 1:
        raise UserError(f"the number of solver steps is {steps}; expected at least 1")
    low, high = min(t0, t1), max(t0, t1)
    # Not low + g (high - low), which may miss `high` by a rounding and leave the interval.
    edges = [(1 - g) * low + g * high for g in choose("grid", grid)(steps)]
    return edges if t1 >= t0 else edges[::-1]
