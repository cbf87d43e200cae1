"""What a path is: how a point moves from noise (t = 0) to data (t = 1), and which of its quantities imply which others."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowkit.components import Component

QUANTITIES = ("velocity", "data", "noise", "score")
CLIP = 0.05  # coefficients that a conversion divides by are no smaller than this


def expand(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) as (B, 1, ..., 1), to multiply `like` (B, ...). Raises ValueError unless t has exactly one value a row.

    Needed because t (B,) against x (B, D) broadcasts along the wrong dimension, in silence, when B = D.
    """
    if t.ndim != 1 or t.shape[0] != like.shape[0]:
        raise ValueError(f"t has shape {tuple(t.shape)}; expected ({like.shape[0]},), one time a row of x")
    return t.view(-1, *(1,) * (like.ndim - 1))


class Path(Component):
    """x0, x1, x_t, v: (B, ...); t: (B,). `stochastic` paths need a third draw, eps (B, ...) of unit normals."""

    stochastic: ClassVar[bool] = False

    @abstractmethod
    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """x_t."""

    @abstractmethod
    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """d x_t / dt, the target of flow matching."""

    def converts(self, source: str, to: str) -> bool:
        """Whether `source` and x_t imply `to`; both are among QUANTITIES."""
        return source == to

    def convert(self, value: Tensor, x_t: Tensor, t: Tensor, source: str, to: str, clip: float = CLIP) -> Tensor:
        """The `to` (B, ...) that `value`, a `source`, and x_t imply. Raises ValueError where they imply none."""
        if not self.converts(source, to):
            raise ValueError(f"on the path {type(self).__name__} {source} and x_t do not imply the {to}")
        return value


def ones(t: Tensor) -> Tensor:
    return torch.ones_like(t)
