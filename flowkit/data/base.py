"""The distribution of a flow at t = 0: normal noise, or the rows of another data set, normalized as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from flowkit.data.arrays import gather
from flowkit.device import to_device
from flowkit.errors import UserError
from flowkit.rng import NUMERICS, Draws, key, seed_generator

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset

NORMAL = "normal"


class Base(Protocol):
    @property
    def variance(self) -> float:
        """The variance, as a mean over the dimensions."""
        ...

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        """Draw x0 of that shape for training, on the device of `draws`, as a function of its seed, `purpose` and `place`.

        rows: row numbers of the data that x0 (B, ...) is paired with, for a base that depends on them.
        """
        ...

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        """Draw x0 (len(indices), *shape) on the CPU, one seed per sample index, independent of batch size and device."""
        ...


@dataclass(frozen=True)
class NormalBase:
    """Independent unit normals."""

    numerics: int = NUMERICS  # version of the numerics for `sample`

    @property
    def variance(self) -> float:
        return 1.0

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        return draws.normal(purpose, place, shape)

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        # One by one, so that the batch size does not matter.
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
        """rows: (N, ...), normalized like the data."""
        self.rows = rows

    @property
    def variance(self) -> float:
        return float(self.rows.flatten(1).var(dim=0).mean())

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        assert shape[1:] == self.rows.shape[1:]
        # float64, since a float32 uniform only has 2^24 values.
        uniform = draws.uniform(f"{purpose} rows", place, shape[:1], torch.float64)
        picked = (uniform * len(self.rows)).long()
        if draws.device.type == "cpu":  # validation draws on the CPU from rows that training has on the device
            return self.rows[picked.to(self.rows.device)].cpu()
        self.rows = self.rows.to(uniform.device)
        return self.rows[picked]

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        picked = torch.tensor([key(seed, "sample", i) % len(self.rows) for i in indices])
        return self.rows[picked.to(self.rows.device)].cpu()


class StoredBase:
    """The noise that each row came from, stored with the data (reflow, arXiv 2209.03003). Samples start from `drawn`."""

    def __init__(self, data: Dataset, shape: tuple[int, ...], drawn: Base):
        """shape: of a row as the model sees it. Raises UserError if the data has no such noise."""
        if data.noise is None:
            raise UserError(
                'flow.coupling: "paired" needs data with the noise that each row came from, which this data lacks; '
                "`flowkit sample --pairs` writes such data"
            )
        if data.noise.shape[1:] != shape:
            raise UserError(
                f"flow.coupling: the data's noise has rows of shape {data.noise.shape[1:]}, but the model sees {shape}; set "
                "data.normalizer as in the model that the pairs came from"
            )
        self.noise, self.drawn = data.noise, drawn

    @property
    def variance(self) -> float:
        return self.drawn.variance

    def draw(
        self, draws: Draws, purpose: str, place: int, shape: tuple[int, ...], rows: np.ndarray | None = None
    ) -> Tensor:
        assert rows is not None, "needs the rows whose noise it is"
        return to_device(torch.from_numpy(gather(self.noise, rows)), draws.device)

    def sample(self, seed: int, indices: range, shape: tuple[int, ...]) -> Tensor:
        return self.drawn.sample(seed, indices, shape)
