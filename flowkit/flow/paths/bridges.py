"""Bridges `x_t = t x1 + (1 - t) x0 + gamma(t) eps`: a line plus noise, between any two distributions.

x_t depends on three unknowns, so a velocity determines neither the data nor the noise and cannot be converted
(arXiv 2302.00482; Albergo et al., arXiv 2303.08797, for gamma).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowkit.flow.paths.base import Path, expand


class Bridge(Path):
    """gamma and its derivative map t (B,) to (B,) and are finite on [0, 1]. eps (B, ...) are unit normals."""

    stochastic: ClassVar[bool] = True

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def d_gamma(self, t: Tensor) -> Tensor: ...

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return t x1 + (1 - t) x0 + gamma eps."""
        assert eps is not None, "a bridge needs its own noise"
        return torch.lerp(x0, x1, expand(t, x1)) + expand(self.gamma(t), x1) * eps

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return x1 - x0 + gamma' eps."""
        assert eps is not None, "a bridge needs its own noise"
        return x1 - x0 + expand(self.d_gamma(t), x1) * eps


class ConstantBridge(Bridge):
    """gamma = sigma: I-CFM, or OT-CFM with an optimal transport coupling (arXiv 2302.00482)."""

    sigma: float = Field(default=0.1, gt=0, description="standard deviation of the noise around the line")

    def gamma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma)

    def d_gamma(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class SchrodingerBridge(Bridge):
    """gamma = sigma sqrt(t (1 - t)), a Brownian bridge: SB-CFM with an entropic coupling (arXiv 2302.00482).

    Use it with the coupling `{name = "sinkhorn", regularization = 2 sigma^2}`. gamma' is unbounded at both ends, so it is
    computed with t (1 - t) clipped at 1e-4.
    """

    sigma: float = Field(default=1.0, gt=0, description="sigma of the Brownian bridge, sigma sqrt(t (1 - t))")

    def gamma(self, t: Tensor) -> Tensor:
        return self.sigma * (t * (1 - t)).clamp_min(0.0).sqrt()

    def d_gamma(self, t: Tensor) -> Tensor:
        return self.sigma * (0.5 - t) / (t * (1 - t)).clamp_min(1e-4).sqrt()
