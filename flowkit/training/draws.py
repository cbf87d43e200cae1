"""Random draws of a run: each a function of (seed, purpose, update), made for the whole global batch on every process.

A process then uses its own rows, so that the draws at a place of the global batch do not depend on how many processes
share it. On a device that costs less than a per-row generator would, and nothing has to be saved to resume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.data.keys import key


class Draws:
    """Keyed normals and uniforms on one device. The generator is reseeded at each draw; it carries no state."""

    def __init__(self, seed: int, device: torch.device):
        self.seed, self.device = seed, device
        self._generator = torch.Generator(device)

    def normal(self, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normals (fp32) of that shape."""
        return torch.randn(shape, generator=self._at(purpose, place), device=self.device)

    def uniform(
        self, purpose: str, place: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniforms on [0, 1) of that shape."""
        return torch.rand(shape, generator=self._at(purpose, place), device=self.device, dtype=dtype)

    def _at(self, purpose: str, place: int) -> torch.Generator:
        return self._generator.manual_seed(key(self.seed, purpose, place))
