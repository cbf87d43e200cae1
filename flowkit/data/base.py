"""What a flow starts from at t = 0: normal noise, or the rows of another data set. As the model sees them: normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flowkit.rng import NUMERICS, Draws, key, seed_generator

NORMAL = "normal"


class Base(Protocol):
    @property
    def variance(self) -> float:
        """Mean over the dimensions."""
        ...

    def draw(self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        """x0 of that shape for training, on the device of `draws`: a function of its seed, `purpose` and `place`."""
        ...

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        """x0 (len(indices), *shape) on the CPU: one key per sample index, whatever the batch size and the device."""
        ...


@dataclass(frozen=True)
class NormalBase:
    """Independent unit normals."""

    numerics: int = NUMERICS  # the version that `sample` draws by

    @property
    def variance(self) -> float:
        return 1.0

    def draw(self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        return draws.normal(purpose, place, shape)

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        # One by one, since a batched `randn` has no prefix property.
        generator = torch.Generator()
        return torch.stack(
            [
                torch.randn(shape, generator=seed_generator(generator, key(seed, "sample", i), self.numerics))
                for i in indices
            ]
        )


class DataBase:
    """Rows of a data set, drawn with replacement."""

    def __init__(self, rows: Tensor):
        """rows: (N, ...), normalised as the data are."""
        self.rows = rows

    @property
    def variance(self) -> float:
        return float(self.rows.flatten(1).var(dim=0).mean())

    def draw(self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...]) -> Tensor:
        assert shape[1:] == self.rows.shape[1:]
        # In float64, since a float32 uniform has 2^24 values only.
        uniform = draws.uniform(f"{purpose} rows", place, shape[:1], torch.float64)
        self.rows = self.rows.to(uniform.device)
        return self.rows[(uniform * len(self.rows)).long()]

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        picked = torch.tensor([key(seed, "sample", i) % len(self.rows) for i in indices])
        return self.rows[picked.to(self.rows.device)].cpu()
