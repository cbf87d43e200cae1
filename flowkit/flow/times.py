"""Distributions of the training time: maps of uniforms u (B,) in [0, 1) to times t (B,) in [0, 1].

They draw nothing themselves, so whoever calls them decides what u depends on (and may stratify it).
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
    """Every time equally often."""

    def __call__(self, u: Tensor) -> Tensor:
        return u


class LogitNormal(Times):
    """logit(t) ~ N(mean, std^2): more of the middle, where the loss is hard (arXiv 2403.03206).

    A mean below 0 leans towards noise (t = 0), above 0 towards data. std > 0. A share `uniform_share` of the times is
    uniform instead: the rest reaches neither end (at mean 0 and std 1, seven in 10,000 times are above 0.96), and solvers do.
    """

    mean: float = Field(default=0.0, description="mean of the normal whose sigmoid is t; above 0 leans to the data")
    std: float = Field(default=1.0, gt=0, description="its standard deviation")
    uniform_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of times that are uniform instead, so that both ends are trained too",
    )

    def __call__(self, u: Tensor) -> Tensor:
        share = self.uniform_share  # the lowest u are spread over all times, the others over all of the normal
        rest = ((u - share) / (1 - share)).clamp_min(0)
        return torch.where(u < share, u / share, torch.sigmoid(self.mean + self.std * torch.special.ndtri(rest)))


class Shifted(Times):
    """Uniform times moved towards the noise by `shift` > 1: t / (shift - (shift - 1) t) (arXiv 2403.03206).

    For data of many dimensions, where noise hides little; below 1 towards the data. In logits it is a shift by
    -log(shift), so logit-normal times are shifted by their mean.
    """

    shift: float = Field(default=3.0, gt=0, description="above 1 the times lean to the noise, below to the data")

    def __call__(self, u: Tensor) -> Tensor:
        return u / (self.shift - (self.shift - 1) * u)


def stratify(u: Tensor, order: Tensor) -> Tensor:
    """Uniforms with one in each of B equal strata: u (B,) uniform in [0, 1), order (B,) a permutation of 0 to B - 1 -> (B,).

    Over a whole global batch it takes the chance out of which times an update sees, a good part of the loss's variance
    (arXiv 2107.00630 has it for diffusion).
    """
    return ((order.to(u.dtype) + u) / len(u)).clamp_max(1 - torch.finfo(u.dtype).eps / 2)
