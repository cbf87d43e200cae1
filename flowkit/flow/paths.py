"""Probability paths from noise to data: `x_t = alpha(t) x1 + sigma(t) x0`, with x0 noise (t = 0) and x1 data (t = 1).

A path is its four coefficients; every conversion between velocity and data follows from them (Lipman et al.,
arXiv 2210.02747; Albergo et al., arXiv 2303.08797). A new path is one small class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.flow.choices import Choice, choose


def expand(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) as (B, 1, ..., 1), to multiply `like` (B, ...). Raises ValueError unless t has exactly one value a row.

    Needed because t (B,) against x (B, D) broadcasts along the wrong dimension, in silence, when B = D.
    """
    if t.ndim != 1 or t.shape[0] != like.shape[0]:
        raise ValueError(f"t has shape {tuple(t.shape)}; expected ({like.shape[0]},), one time a row of x")
    return t.view(-1, *(1,) * (like.ndim - 1))


class Path(ABC):
    """Coefficients of t (B,) -> (B,), and the conversions that follow. x0, x1, x_t, v are all (B, ...)."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor: ...

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x1 + sigma x0."""
        return expand(self.alpha(t), x1) * x1 + expand(self.sigma(t), x1) * x0

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """d x_t / dt = alpha' x1 + sigma' x0, the target of flow matching."""
        return expand(self.d_alpha(t), x1) * x1 + expand(self.d_sigma(t), x1) * x0

    def velocity_to_data(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The x1 that v and x_t imply: (sigma v - sigma' x_t) / (sigma alpha' - sigma' alpha); finite on all of [0, 1]."""
        determinant = self.sigma(t) * self.d_alpha(t) - self.d_sigma(t) * self.alpha(t)
        scaled = expand(self.sigma(t), x_t) * v - expand(self.d_sigma(t), x_t) * x_t
        return scaled / expand(determinant, x_t)

    def data_to_velocity(self, x1: Tensor, x_t: Tensor, t: Tensor, min_sigma: float) -> Tensor:
        """The v that x1 and x_t imply: alpha' x1 + sigma' x0, where x0 = (x_t - alpha x1) / max(sigma, min_sigma).

        Exact where sigma >= min_sigma. Where sigma runs to 0, at the data's end, the implied noise is shrunk; v then
        still carries the mean to its place, which clipping the whole of v (as arXiv 2511.13720 does) would not.
        """
        x0 = (x_t - expand(self.alpha(t), x_t) * x1) / expand(self.sigma(t).clamp_min(min_sigma), x_t)
        return self.velocity(x0, x1, t)

    def velocity_per_data(self, t: Tensor, min_sigma: float) -> Tensor:
        """dv / dx1 (B,) of `data_to_velocity`."""
        return self.d_alpha(t) - self.d_sigma(t) * self.alpha(t) / self.sigma(t).clamp_min(min_sigma)


@dataclass(frozen=True)
class Linear(Path):
    """x_t = t x1 + (1 - t) x0: rectified flow (arXiv 2209.03003), conditional OT (arXiv 2210.02747)."""

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


PATHS = {"linear": Linear}


def get_path(choice: Choice, **settings: Any) -> Path:
    """A path by name, or by a table with its settings. Raises UserError."""
    return choose("path", PATHS, choice, settings)
