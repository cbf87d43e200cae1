"""How a sample's error is scored: error (B, ...) -> (B,), a mean over the elements so that shapes compare."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from flowkit.components import Component


class Error(Component):
    @abstractmethod
    def __call__(self, error: Tensor) -> Tensor:
        """(B, ...) -> (B,)."""


class Squared(Error):
    """The mean square: its minimiser is the mean, which is what makes the learned field the marginal velocity."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1)


class PseudoHuber(Error):
    """sqrt(mean square + c^2) - c, for a sample as a whole (arXiv 2310.14189): quadratic below c, linear above it.

    c is in root mean squares of the error; about 0.03 for unit-variance data is that paper's 0.00054 sqrt(D) at D = 3,072.
    """

    c: float = Field(
        default=0.03, gt=0, description="root mean square of an error where it turns from square to linear"
    )

    def __call__(self, error: Tensor) -> Tensor:
        square = error.square().flatten(1).mean(1)
        return square / ((square + self.c**2).sqrt() + self.c)  # the difference of roots would cancel for small errors


class Absolute(Error):
    """The mean absolute value (L1): its minimiser is the median of each element, so the field is no longer the mean's."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.abs().flatten(1).mean(1)
