"""Base classes of normalizers."""

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

SAME = 1e-5  # fits on the same rows agree to about 1e-10, on halves of them to 1e-2
CHUNK_BYTES = 1 << 22  # bytes of stored rows to normalize at a time


class Normalizer(ABC):
    """An invertible map of rows, with float64 statistics."""

    name: str

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """x (B, ...) in the domain's units -> (B, *self.shape(...)) of about zero mean and unit variance, in x's dtype."""

    @abstractmethod
    def denormalize(self, x: Tensor) -> Tensor:
        """Return the inverse of `normalize`."""

    def normalize_rows(self, x: np.ndarray, rows: np.ndarray, move: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `normalize(x[rows])` on the device that `move` moves to: x (N, ...) float32, rows (n,) -> (n, *self.shape(...)).

        Works in chunks, and so needs little more memory than the result; `normalize` of all rows needs three to five times as
        much.
        """
        import torch

        count = max(1, -(-len(rows) * x[:1].nbytes // CHUNK_BYTES))
        # Chunks of similar size: a product with a single leftover row might round differently.
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
        """Return whether it accepts rows of that shape."""

    def shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a normalized row: the row's own, unless directions are dropped."""
        return row_shape

    @abstractmethod
    def log_det(self, row_shape: tuple[int, ...]) -> float:
        """Return log |det| of d normalize(x) / dx for that shape, in nats. Raises UserError if directions are dropped."""

    @abstractmethod
    def same_as(self, other: Normalizer, row_shape: tuple[int, ...]) -> bool:
        """Return whether both are the same map for rows of that shape, within SAME standard deviations."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return its name and small statistics; the large ones are `tensors`."""

    @classmethod
    @abstractmethod
    def from_json(cls, content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Self:
        """Restore it from `to_json()` and `tensors()`. Raises KeyError, TypeError or ValueError."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the statistics that are too large for JSON, for a tensor file; often none."""
        return {}


class Normalization(Component):
    """How a normalizer is fitted. `fitted` is the resulting class, whose JSON has the component's name."""

    fitted: ClassVar[type[Normalizer]]

    @abstractmethod
    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        """Fit on `x[rows]`, the training rows, in chunks: a memory-mapped x (N, ...) is never copied whole."""


class Auto(Normalization):
    """The domain's default normalizer, or that of the pairs. Resolved once the data is known."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        raise AssertionError("resolved before anything is fitted")


class OnDevices:
    """Arrays as tensors, cached by device and dtype.

    Auxiliary losses need them at every step, and a copy from the host would sync with the device.
    """

    def __init__(self, *arrays: np.ndarray):
        self.arrays = arrays
        self._kept: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        import torch

        found = self._kept.get((device, dtype))
        if found is None:
            with torch.inference_mode(False):  # tensors made in inference mode cannot be used in training
                found = tuple(torch.as_tensor(array).to(device, dtype) for array in self.arrays)
            self._kept[device, dtype] = found
        return found
