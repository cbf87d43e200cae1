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

    A mean below 0 leans towards noise (t = 0), above 0 towards data. std > 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not self.std > 0:
            raise UserError(f"times 'logit_normal': std is {self.std}; expected a number above 0")

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


TIMES = {"uniform": Uniform, "logit_normal": LogitNormal}


def get_times(choice: Choice, **settings: Any) -> Times:
    """A distribution of times by name, or by a table with its settings. Raises UserError."""
    return choose("times", TIMES, choice, settings)
