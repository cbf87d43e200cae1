"""The base class of paths from noise (t = 0) to data (t = 1), and the conversions between their quantities."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.components import Component

QUANTITIES = ("velocity", "data", "noise", "score")
CLIP = 0.05  # lower limit of the coefficients that a conversion divides by


def expand(t: Tensor, like: Tensor) -> Tensor:
    """Reshape t (B,) to (B, 1, ..., 1), to multiply `like` (B, ...). Raises ValueError unless t has one value per row.

    Without it, t (B,) times x (B, D) would silently broadcast along the wrong dimension if B = D.
    """
    if t.ndim != 1 or t.shape[0] != like.shape[0]:
        raise ValueError(f"t has shape {tuple(t.shape)}; expected ({like.shape[0]},), one time per row of x")
    return t.view(-1, *(1,) * (like.ndim - 1))


def over_tokens(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask of tokens (B, S) as (B, S, 1, ...), for x (B, S, ...)."""
    return mask.view(*mask.shape, *(1,) * (x.ndim - 2))


class Path(Component):
    """x0, x1, x_t, v: (B, ...); t: (B,). `stochastic` paths need a third draw, eps (B, ...) of unit normals."""

    stochastic: ClassVar[bool] = False

    @abstractmethod
    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return x_t."""

    @abstractmethod
    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return d x_t / dt, the target of flow matching."""

    def converts(self, source: str, to: str) -> bool:
        """Return whether `source` and x_t determine `to`; both are in QUANTITIES."""
        return source == to

    def convert(self, value: Tensor, x_t: Tensor, t: Tensor, source: str, to: str, clip: float = CLIP) -> Tensor:
        """Return the `to` (B, ...) determined by `value`, a `source`, and x_t. Raises ValueError if it is not determined."""
        if not self.converts(source, to):
            raise ValueError(f'cannot convert {source} to {to} on the path "{self.tag()}"')
        return value


def ones(t: Tensor) -> Tensor:
    return torch.ones_like(t)
