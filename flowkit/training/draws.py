"""Random draws of a run: each a function of (seed, purpose, update), made for the whole global batch on every process.

A process then uses its own rows, so that the draws at a place of the global batch do not depend on how many processes
share it. On a device that costs less than a per-row generator would, and nothing has to be saved to resume.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from flowkit.data.keys import key, seed_generator


def seed_modules(device: torch.device, seed: int) -> None:
    """Seed the generators that modules draw from (dropout), on the CPU and on `device`.

    Not `torch.manual_seed`: where CUDA is there but not in use, that one formats and keeps a stack trace at every call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class Draws:
    """Keyed normals and uniforms on one device. The generator is reseeded at each draw; it carries no state.

    Each thread has its own: a worker may draw ahead of the loop.
    """

    def __init__(self, seed: int, device: torch.device):
        self.seed, self.device = seed, device
        self._of_thread = threading.local()

    def normal(self, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normals (fp32) of that shape."""
        return torch.randn(shape, generator=self._at(purpose, place), device=self.device)

    def uniform(self, purpose: str, place: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniforms on [0, 1) of that shape."""
        return torch.rand(shape, generator=self._at(purpose, place), device=self.device, dtype=dtype)

    def _at(self, purpose: str, place: int) -> torch.Generator:
        generator = getattr(self._of_thread, "generator", None)
        if generator is None:
            generator = self._of_thread.generator = torch.Generator(self.device)
        return seed_generator(generator, key(self.seed, purpose, place))
