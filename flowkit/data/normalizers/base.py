"""What every normalizer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from flowkit.components import Component
from flowkit.data.arrays import gather

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAME = 1e-5  # two fits on the same rows agree to about 1e-10, on halves of them to 1e-2


CHUNK_BYTES = 1 << 22  # of rows as they are stored, normalized at a time


class Normalizer(ABC):
    """An invertible map of rows; its statistics are float64."""

    name: str

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """x (B, ...) in the domain's units -> (B, *self.shape(...)) of about zero mean and unit variance, in x's dtype."""

    @abstractmethod
    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""

    def normalize_rows(self, x: np.ndarray, rows: np.ndarray, move: Callable[[Tensor], Tensor]) -> Tensor:
        """`normalize(x[rows])` on the device that `move` puts tensors on: x (N, ...) float32, rows (n,) -> (n, *self.shape(...)).

        Many rows go through in chunks, and so take hardly more memory than the result. `normalize` of all of them at once
        takes three to five times as much.
        """
        import torch

        count = max(1, -(-len(rows) * x[:1].nbytes // CHUNK_BYTES))
        # Chunks of about one size: a matrix product with a single row left over might round otherwise.
        chunks = (self.normalize(move(torch.from_numpy(gather(x, part)))) for part in np.array_split(rows, count))
        first = next(chunks)
        if count == 1:
            return first
        found, start = first.new_empty((len(rows), *first.shape[1:])), 0
        for chunk in chain([first], chunks):
            found[start : start + len(chunk)] = chunk
            start += len(chunk)
        return found

    @abstractmethod
    def fits(self, row_shape: tuple[int, ...]) -> bool:
        """Whether it takes rows of that shape."""

    def shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a normalised row: the row's own, unless directions are left out."""
        return row_shape

    @abstractmethod
    def log_det(self, row_shape: tuple[int, ...]) -> float:
        """log |det| of d normalize(x) / dx for rows of that shape, in nats. Raises UserError where directions are left out."""

    @abstractmethod
    def same_as(self, other: Normalizer, row_shape: tuple[int, ...]) -> bool:
        """Whether both are one map of rows of that shape, to within SAME of a standard deviation."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What it is and its small statistics; the large ones are `tensors`."""

    @classmethod
    @abstractmethod
    def from_json(cls, content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Self:
        """From `to_json()` and `tensors()`. Raises KeyError, TypeError or ValueError where they are not of one."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Statistics too large for JSON, to be kept in a tensor file; often none."""
        return {}


class Normalization(Component):
    """How a normalizer is fitted; `fitted` is the class of what comes of it, which has the component's name in its JSON."""

    fitted: ClassVar[type[Normalizer]]

    @abstractmethod
    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        """Fit on `x[rows]`, the training rows: in chunks, so that memory-mapped x (N, ...) is never copied whole."""


class Auto(Normalization):
    """The domain's choice, or that of pairs; whoever knows the data resolves it."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        raise AssertionError("resolved before anything is fitted")


class OnDevices:
    """The same arrays as tensors, kept by device and dtype.

    A copy from the host waits for the device, and auxiliary losses come here every step.
    """

    def __init__(self, *arrays: np.ndarray):
        self.arrays = arrays
        self._kept: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        import torch

        found = self._kept.get((device, dtype))
        if found is None:
            with torch.inference_mode(False):  # or a tensor made while sampling could not enter a graph when training
                found = tuple(torch.as_tensor(array).to(device, dtype) for array in self.arrays)
            self._kept[device, dtype] = found
        return found
