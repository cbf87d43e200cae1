"""What a flow starts from at t = 0: normal noise, or the rows of another data set. As the model sees them: normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from flowkit.data.arrays import gather
from flowkit.errors import UserError
from flowkit.rng import NUMERICS, Draws, key, seed_generator

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset

NORMAL = "normal"


class Base(Protocol):
    @property
    def variance(self) -> float:
        """Mean over the dimensions."""
        ...

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        """x0 of that shape for training, on the device of `draws`: a function of its seed, `purpose` and `place`.

        rows: numbers of the data's rows that x0 (B, ...) will go with, for a base that depends on them.
        """
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

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
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

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        assert shape[1:] == self.rows.shape[1:]
        # In float64, since a float32 uniform has 2^24 values only.
        uniform = draws.uniform(f"{purpose} rows", place, shape[:1], torch.float64)
        self.rows = self.rows.to(uniform.device)
        return self.rows[(uniform * len(self.rows)).long()]

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        picked = torch.tensor([key(seed, "sample", i) % len(self.rows) for i in indices])
        return self.rows[picked.to(self.rows.device)].cpu()


class StoredBase:
    """The noise that each row came from, kept with the data (reflow, arXiv 2209.03003). Samples start from `drawn` instead."""

    def __init__(self, data: Dataset, shape: tuple[int, ...], drawn: Base):
        """shape: of a row as the model sees it. Raises UserError where the data have no such noise."""
        if data.noise is None:
            raise UserError(
                'flow.coupling: "paired" needs data that keep the noise which each row came from, and these do not; '
                "`flowkit sample --pairs` writes such data"
            )
        if data.noise.shape[1:] != shape:
            raise UserError(
                f"flow.coupling: the data's noise has rows of shape {data.noise.shape[1:]}, and the model sees {shape}; give "
                "data.normalizer as the model had it that the pairs came from"
            )
        self.noise, self.drawn = data.noise, drawn

    @property
    def variance(self) -> float:
        return self.drawn.variance

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        assert rows is not None, "whose noise it is"
        return torch.from_numpy(gather(self.noise, rows)).to(draws.device, non_blocking=True)

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        return self.drawn.sample(seed, indices, shape)
