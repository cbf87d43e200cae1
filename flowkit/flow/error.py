"""The error function of a sample: error (B, ...) -> (B,), a mean over elements so that shapes are comparable.

With `counted` (B, S) bool, the mean is over the elements of those tokens of error (B, S, ...) only; 0 for a row without any.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from flowkit.components import Component


class Error(Component):
    @abstractmethod
    def __call__(self, error: Tensor, counted: Tensor | None = None) -> Tensor:
        """(B, ...) -> (B,). `counted` is only passed if some tokens are given (`flow.given`)."""


def mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean (B,) of values (B, ...), or of their `counted` (B, S) tokens."""
    if counted is None:
        return values.flatten(1).mean(1)
    tokens = values.flatten(2).mean(2) if values.ndim > 2 else values
    return (tokens * counted).sum(1) / counted.sum(1).clamp_min(1)


class Squared(Error):
    """Mean square. Its minimizer is the mean, which makes the learned field the marginal velocity."""

    def __call__(self, error: Tensor, counted: Tensor | None = None) -> Tensor:
        return mean(error.square(), counted)


class PseudoHuber(Error):
    """sqrt(mean square + c^2) - c, per sample (arXiv 2310.14189): quadratic below c, linear above it.

    c is a root mean square error. About 0.03 for unit-variance data is that paper's 0.00054 sqrt(D) at D = 3,072.
    """

    c: float = Field(default=0.03, gt=0, description="root mean square error where it changes from quadratic to linear")

    def __call__(self, error: Tensor, counted: Tensor | None = None) -> Tensor:
        square = mean(error.square(), counted)
        return square / ((square + self.c**2).sqrt() + self.c)  # stable form of the difference, for small errors


class Absolute(Error):
    """Mean absolute value (L1). Its minimizer is the median of each element, not the mean."""

    def __call__(self, error: Tensor, counted: Tensor | None = None) -> Tensor:
        return mean(error.abs(), counted)
