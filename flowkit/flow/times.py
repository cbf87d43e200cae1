"""Distributions of the training time: maps from uniforms u (B,) in [0, 1) to times t (B,) in [0, 1].

They are deterministic, so the caller decides what u depends on, and may stratify it.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component


class Times(Component):
    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """u (B,) in [0, 1) -> t (B,) in [0, 1]."""


class Uniform(Times):
    """Uniform times."""

    def __call__(self, u: Tensor) -> Tensor:
        return u


class LogitNormal(Times):
    """logit(t) ~ N(mean, std^2): more of the middle, where the loss is hard (arXiv 2403.03206).

    A mean below 0 favors noise (t = 0), above 0 data. std > 0. A fraction `uniform_share` of the times is uniform instead,
    since the rest hardly reaches the ends that solvers use: at mean 0 and std 1, seven in 10,000 times are above 0.96.
    """

    mean: float = Field(default=0.0, description="mean of the normal distribution of logit(t); above 0 favors data")
    std: float = Field(default=1.0, gt=0, description="standard deviation of logit(t)")
    uniform_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="fraction of times drawn uniformly instead, to cover both ends",
    )

    def __call__(self, u: Tensor) -> Tensor:
        share = self.uniform_share  # the lowest u become uniform times, the others normal ones
        rest = ((u - share) / (1 - share)).clamp_min(0)
        return torch.where(u < share, u / share, torch.sigmoid(self.mean + self.std * torch.special.ndtri(rest)))


class Shifted(Times):
    """Uniform times shifted towards noise by `shift` > 1: t / (shift - (shift - 1) t) (arXiv 2403.03206).

    For data of many dimensions, where noise hides little; below 1 towards data. In logits this is a shift by -log(shift), so
    shift logit-normal times with their mean instead.
    """

    shift: float = Field(default=3.0, gt=0, description="above 1 favors times near the noise, below 1 near the data")

    def __call__(self, u: Tensor) -> Tensor:
        return u / (self.shift - (self.shift - 1) * u)


def stratify(u: Tensor, order: Tensor) -> Tensor:
    """Return uniforms with one in each of B equal strata: u (B,) uniform in [0, 1), order (B,) a permutation of 0 to B - 1.

    Over a whole global batch this removes a good part of the variance of the loss (arXiv 2107.00630, for diffusion).
    """
    return ((order.to(u.dtype) + u) / len(u)).clamp_max(1 - torch.finfo(u.dtype).eps / 2)
