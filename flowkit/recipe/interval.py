"""Lengths of training: how often something happens, and how long the learning rate warms up."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from flowkit.settings import whole_number

_EPOCHS = re.compile(r"(\d+(?:\.\d+)?(?:e-\d+)?) *epochs?")
MAX_COUNT = 10**12  # beyond any run, and still exact as a float


def whole_steps(count: float) -> int:
    """Round up to whole updates, with a tolerance for binary floating point: 0.07 x 100 is 7."""
    return math.ceil(round(count, 6))


class Length:
    """A value that pydantic reads with `parse` and writes with `plain`, as one TOML value."""

    @classmethod
    def parse(cls, value: Any) -> Any:
        raise NotImplementedError

    def plain(self) -> Any:
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = core_schema.plain_serializer_function_ser_schema(lambda length: length.plain())
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=plain)


@dataclass(frozen=True)
class Interval(Length):
    """A number of steps or epochs: `500`, `"10 epochs"`. `0` or `"never"` is off, and falsy."""

    count: float
    unit: Literal["steps", "epochs"] = "steps"

    words: ClassVar[str] = 'a number of steps, "N epochs" or "never"'

    def __bool__(self) -> bool:
        return self.count > 0

    def steps(self, steps_per_epoch: float) -> int:
        """Return the updates between two occurrences, at least 1; 0 if it is off."""
        if not self:
            return 0
        return max(1, whole_steps(self.count * (steps_per_epoch if self.unit == "epochs" else 1)))

    @classmethod
    def parse(cls, value: Any) -> Interval:
        """Read a TOML value. Raises ValueError."""
        if isinstance(value, cls):
            return value
        epochs = _epochs(value)
        if value == "never" or epochs == 0:
            return cls(0)
        return cls(epochs, "epochs") if epochs is not None else cls(_whole(value))

    def plain(self) -> int | str:
        if not self:
            return "never"
        return int(self.count) if self.unit == "steps" else _epochs_text(self.count)


@dataclass(frozen=True)
class Warmup(Length):
    """Length of the learning rate warm-up: `500` steps, `"2 epochs"`, or `0.05` of the run."""

    count: float
    unit: Literal["steps", "epochs", "fraction"] = "fraction"

    words: ClassVar[str] = 'a fraction below 1, a number of steps or "N epochs"'

    def steps(self, total_steps: int, steps_per_epoch: float) -> int:
        """Return the warm-up updates of a run of `total_steps`; 0 for none."""
        scale = {"steps": 1.0, "epochs": steps_per_epoch, "fraction": float(total_steps)}[self.unit]
        return whole_steps(self.count * scale)

    @classmethod
    def parse(cls, value: Any) -> Warmup:
        """Read a TOML value. Raises ValueError, also for a float >= 1: 500.0 is ambiguous."""
        if isinstance(value, cls):
            return value
        if isinstance(value, float):
            if not 0 <= value < 1:
                raise ValueError("a fraction must be at least 0 and below 1")
            return cls(value)
        epochs = _epochs(value)
        return cls(epochs, "epochs") if epochs is not None else cls(_whole(value), "steps")

    def plain(self) -> int | float | str:
        if self.unit == "epochs":
            return _epochs_text(self.count)
        return int(self.count) if self.unit == "steps" else float(self.count)


def _epochs(value: Any) -> float | None:
    """Return 2.0 for "2 epochs"; None for anything else."""
    match = _EPOCHS.fullmatch(value) if isinstance(value, str) else None
    return min(float(match[1]), MAX_COUNT) if match else None


def _epochs_text(count: float) -> str:
    number = int(count) if count == int(count) else count
    return f"{number} epoch" + ("" if count == 1 else "s")


def _whole(value: Any) -> int:
    value = whole_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError("expected a whole number")
    return value
