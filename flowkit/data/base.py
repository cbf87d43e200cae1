"""What a flow starts from at t = 0: normal noise, or the rows of another data set. As the model sees them: normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from flowkit.data.keys import NUMERICS, key, seed_generator
from flowkit.errors import UserError

if TYPE_CHECKING:
    from flowkit.data.dataset import Dataset
    from flowkit.data.normalizers import Normalizer
    from flowkit.training.draws import Draws

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


def open_base(
    described: dict[str, Any],
    data_shape: tuple[int, ...],
    normalizer: Normalizer,
    folders: Sequence[Path] = (),
    numerics: int = NUMERICS,
) -> Base:
    """The base that `described` names: {"source": "normal"}, or a data set's source with "num_samples" and "seed".

    folders: where a relative path is looked for before the working directory. Of a file that was split only the training
    rows are taken. Raises UserError for an unknown source, and for rows that are not of the data's shape.
    """
    source = described["source"]
    if source == NORMAL:
        return NormalBase(numerics)
    data = _open(source, described, folders)
    if data.x.shape[1:] != data_shape:
        raise UserError(
            f"flow.base: the rows of {source!r} have shape {data.x.shape[1:]}, and those of the data {data_shape}; "
            "a flow needs rows of one shape at both ends"
        )
    return DataBase(normalizer.normalize_rows(data.x, data.rows("train"), lambda rows: rows))


def _open(source: str, described: dict[str, Any], folders: Sequence[Path]) -> Dataset:
    from flowkit.data.source import open_rows

    try:
        return open_rows(source, described["num_samples"], described["seed"], folders)
    except UserError as error:
        raise UserError(f"flow.base: {error}") from None
