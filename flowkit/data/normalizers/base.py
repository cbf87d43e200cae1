"""What every normalizer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAME = 1e-5  # two fits on the same rows agree to about 1e-10, on halves of them to 1e-2


class Normalizer(ABC):
    """An invertible map of rows; its statistics are float64."""

    name: str

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """x (B, ...) in the domain's units -> (B, *self.shape(...)) of about zero mean and unit variance, in x's dtype."""

    @abstractmethod
    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""

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

    def tensors(self) -> dict[str, np.ndarray]:
        """Statistics too large for JSON, to be kept in a tensor file; often none."""
        return {}


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
