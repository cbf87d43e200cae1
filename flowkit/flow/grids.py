"""Grids of solver times on [0, 1], for fixed-step solvers and the SDE. Pure Python, in double precision."""

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
        raise PydanticCustomError("said", "{text}", {"text": f"{list(times)} must rise from 0.0 to 1.0"})
    return times


Times = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    AS_TUPLE, Field(min_length=2), AfterValidator(_rising), Says("a list of rising numbers from 0.0 to 1.0"),
]  # fmt: skip


class Grid(Component):
    @abstractmethod
    def __call__(self, steps: int) -> list[float]:
        """Return increasing times from 0 to 1, ends included."""

    def steps(self, asked: int) -> int:
        """Return the actual number of steps if `asked` steps are requested."""
        return asked


class Uniform(Grid):
    def __call__(self, steps: int) -> list[float]:
        return [step / steps for step in range(steps + 1)]


class Shifted(Grid):
    """t / (t + shift (1 - t)): above 1 more steps near the noise, below 1 near the data (arXiv 2403.03206, eq. 23)."""

    shift: float = Field(default=3.0, gt=0, description="above 1 more steps near the noise, below 1 near the data")

    def __call__(self, steps: int) -> list[float]:
        return [t / (t + self.shift * (1 - t)) for t in Uniform()(steps)]


class Power(Grid):
    """t ** exponent: above 1 more steps near the noise, below 1 near the data."""

    exponent: float = Field(default=2.0, gt=0, description="times are t ** exponent; above 1 more steps near the noise")

    def __call__(self, steps: int) -> list[float]:
        return [t**self.exponent for t in Uniform()(steps)]


class Custom(Grid):
    """Explicit times, including 0 and 1. They determine the number of steps."""

    times: Times = Field(description="the step times; replaces sample.steps")

    def __call__(self, steps: int) -> list[float]:
        return list(self.times)

    def steps(self, asked: int) -> int:
        return len(self.times) - 1


def grid_edges(grid: Grid | str | Mapping[str, Any], steps: int, t0: float, t1: float) -> list[float]:
    """Return the step times of a trajectory from t0 to t1. Backward (t1 < t0) they are the forward ones, reversed.

    Raises UserError for an unknown grid, a setting out of range, or steps < 1.
    """
    if steps < 1:
        raise UserError(f"steps: {steps}; expected at least 1")
    low, high = min(t0, t1), max(t0, t1)
    # low + g (high - low) may exceed `high` by rounding.
    edges = [(1 - g) * low + g * high for g in choose("grid", grid)(steps)]
    return edges if t1 >= t0 else edges[::-1]
