"""Normalizers that shift and scale each element: x -> (x - shift) / scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from flowkit.data.normalizers.base import SAME, Normalization, Normalizer, OnDevices
from flowkit.data.normalizers.statistics import by_columns, moments

if TYPE_CHECKING:
    from torch import Tensor

# Without a floor, (nearly) constant elements, of which SONAR has two, would divide by 0 and amplify rounding noise.
SCALE_FLOOR = 1e-2  # relative to the root mean square of all scales
# If more than a fraction MANY of the rows is more than FAR scales from the median, they are not outliers.
FAR, MANY = 20.0, 1 / 8
IQR_TO_STD = 0.7413  # standard deviation of a Gaussian relative to its interquartile range


@dataclass(frozen=True)
class AffineNormalizer(Normalizer):
    """`shift` and `scale` (float64) broadcast to a row: scalars for "global", x's shape for "zscore" and "robust"."""

    name: str
    shift: np.ndarray
    scale: np.ndarray

    @cached_property
    def _tensors(self) -> OnDevices:
        return OnDevices(self.shift, self.scale)

    def normalize(self, x: Tensor) -> Tensor:
        shift, scale = self._tensors.on(x.device, x.dtype)
        return (x - shift) / scale

    def denormalize(self, x: Tensor) -> Tensor:
        shift, scale = self._tensors.on(x.device, x.dtype)
        return x * scale + shift

    def fits(self, row_shape: tuple[int, ...]) -> bool:
        try:
            return np.broadcast_shapes(self.shift.shape, self.scale.shape, row_shape) == row_shape
        except ValueError:
            return False

    def log_det(self, row_shape: tuple[int, ...]) -> float:
        return -float(np.log(np.broadcast_to(self.scale, row_shape)).sum())

    def same_as(self, other: Normalizer, row_shape: tuple[int, ...]) -> bool:
        if not isinstance(other, AffineNormalizer) or not (self.fits(row_shape) and other.fits(row_shape)):
            return False
        moved = np.abs(self.shift - other.shift) / self.scale
        return bool((moved <= SAME).all() and (np.abs(other.scale / self.scale - 1) <= SAME).all())

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Self:
        shift, scale = (np.asarray(content[name], np.float64) for name in ("shift", "scale"))
        if not (np.isfinite(shift).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("shift and scale must be finite, and scale positive")
        return cls(content["name"], shift, scale)


class Affine(Normalization):
    fitted: ClassVar[type[Normalizer]] = AffineNormalizer


class Plain(Affine):
    """The identity."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        return AffineNormalizer(self.tag(), np.zeros(()), np.ones(()))


class Global(Affine):
    """One mean and standard deviation for all elements."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        mean, variance = moments(x, rows)
        scale = np.sqrt((variance + (mean - mean.mean()) ** 2).mean())
        return AffineNormalizer(self.tag(), np.asarray(mean.mean()), np.asarray(scale if scale > 0 else 1.0))


class ZScore(Affine):
    """Mean and standard deviation of each element."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        mean, variance = moments(x, rows)
        return AffineNormalizer(self.tag(), mean, _floored(np.sqrt(variance)))


class Robust(Affine):
    """Median and 0.7413 interquartile ranges of each element, which are robust to outliers (arXiv 2412.08821).

    Uses the standard deviation if that range is meaningless, such as for an element that is mostly 0: if it is 0, or if an eighth
    of the rows is 20 times as far out and would be scaled up by hundreds.
    """

    def fit(self, x: np.ndarray, rows: np.ndarray) -> Normalizer:
        median, scale = by_columns(x, rows, _robust)
        return AffineNormalizer(self.tag(), median, _floored(scale))


def _robust(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    scale = IQR_TO_STD * (upper - lower)
    beyond = (np.abs(values - median) > FAR * scale).mean(axis=0)
    return median, np.where((scale == 0) | (beyond > MANY), values.std(axis=0), scale)


def _floored(scale: np.ndarray) -> np.ndarray:
    floor = SCALE_FLOOR * np.sqrt((scale**2).mean())
    return np.maximum(scale, floor if floor > 0 else 1.0)
