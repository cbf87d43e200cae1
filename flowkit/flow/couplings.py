"""Couplings: which noise goes with which data. Only the noise is permuted, so that conditions stay with their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.flow.choices import Choice, choose

# (x0 (B, ...), x1 (B, ...)) -> rows (B,) int64, a permutation: x1[i] is paired with x0[rows[i]].
Coupling = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Independent:
    """Noise as it was drawn: plain flow matching."""

    def __call__(self, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.arange(len(x0), device=x0.device)


COUPLINGS = {"independent": Independent}


def get_coupling(choice: Choice, **settings: Any) -> Coupling:
    """A coupling by name, or by a table with its settings. Raises UserError."""
    return choose("coupling", COUPLINGS, choice, settings)
