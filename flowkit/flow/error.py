"""How a sample's error is scored: error (B, ...) -> (B,), a mean over the elements so that shapes compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.choices import Choice, choose

Error = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Squared:
    """The mean square: its minimiser is the mean, which is what makes the learned field the marginal velocity."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1)


@dataclass(frozen=True)
class PseudoHuber:
    """sqrt(mean square + c^2) - c, for a sample as a whole (arXiv 2310.14189): quadratic below c, linear above it.

    c is in root mean squares of the error; about 0.03 for unit-variance data is that paper's 0.00054 sqrt(D) at D = 3,072.
    """

    c: float = 0.03

    def __post_init__(self):
        if not self.c > 0:
            raise UserError(f"error 'pseudo_huber': c is {self.c}; expected a number above 0")

    def __call__(self, error: Tensor) -> Tensor:
        square = error.square().flatten(1).mean(1)
        return square / ((square + self.c**2).sqrt() + self.c)  # the difference of roots would cancel for small errors


@dataclass(frozen=True)
class Absolute:
    """The mean absolute value (L1): its minimiser is the median of each element, so the field is no longer the mean's."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.abs().flatten(1).mean(1)


ERRORS = {"squared": Squared, "pseudo_huber": PseudoHuber, "l1": Absolute}


def get_error(choice: Choice, **settings: Any) -> Error:
    """An error by name, or by a table with its settings. Raises UserError."""
    return choose("error", ERRORS, choice, settings)
