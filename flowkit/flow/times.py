"""Distributions of the training time: maps of uniforms u (B,) in [0, 1) to times t (B,) in [0, 1].

They draw nothing themselves, so whoever calls them decides what u depends on (and may stratify it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.choices import Choice, choose

Times = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Uniform:
    """Every time equally often."""

    def __call__(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) ~ N(mean, std^2): more of the middle, where the loss is hard (arXiv 2403.03206).

    A mean below 0 leans towards noise (t = 0), above 0 towards data. std > 0. A share `uniform_share` of the times is
    uniform instead: the rest reaches neither end (at mean 0 and std 1, seven in 10,000 times are above 0.96), and solvers do.
    """

    mean: float = 0.0
    std: float = 1.0
    uniform_share: float = 0.05

    def __post_init__(self):
        if not self.std > 0:
            raise UserError(f"times 'logit_normal': std is {self.std}; expected a number above 0")
        if not 0 <= self.uniform_share <= 1:
            raise UserError(
                f"times 'logit_normal': uniform_share is {self.uniform_share}; expected a number from 0 to 1"
            )

    def __call__(self, u: Tensor) -> Tensor:
        share = self.uniform_share  # the lowest u are spread over all times, the others over all of the normal
        rest = ((u - share) / (1 - share)).clamp_min(0)
        return torch.where(u < share, u / share, torch.sigmoid(self.mean + self.std * torch.special.ndtri(rest)))


@dataclass(frozen=True)
class Shifted:
    """Uniform times moved towards the noise by `shift` > 1: t / (shift - (shift - 1) t) (arXiv 2403.03206).

    For data of many dimensions, where noise hides little; below 1 towards the data. In logits it is a shift by
    -log(shift), so logit-normal times are shifted by their mean.
    """

    shift: float = 3.0

    def __post_init__(self):
        if not self.shift > 0:
            raise UserError(f"times 'shifted': shift is {self.shift}; expected a number above 0")

    def __call__(self, u: Tensor) -> Tensor:
        return u / (self.shift - (self.shift - 1) * u)


TIMES = {"uniform": Uniform, "logit_normal": LogitNormal, "shifted": Shifted}


def stratify(u: Tensor, order: Tensor) -> Tensor:
    """Uniforms with one in each of B equal strata: u (B,) uniform in [0, 1), order (B,) a permutation of 0 to B - 1 -> (B,).

    Over a whole global batch it takes the chance out of which times an update sees, a good part of the loss's variance
    (arXiv 2107.00630 has it for diffusion).
    """
    return ((order.to(u.dtype) + u) / len(u)).clamp_max(1 - torch.finfo(u.dtype).eps / 2)


def get_times(choice: Choice, **settings: Any) -> Times:
    """A distribution of times by name, or by a table with its settings. Raises UserError."""
    return choose("times", TIMES, choice, settings)
