"""Noise as it was drawn: plain flow matching (arXiv 2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Independent:
    conditional: ClassVar[bool] = False

    @property
    def block(self) -> None:
        return None

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        class_label: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        """rows (B,): 0, 1, 2, ..."""
        return torch.arange(len(x0), device=x0.device)
