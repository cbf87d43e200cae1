"""Whitening: the principal components of the data, each scaled to unit variance. The smallest may be dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import AfterValidator, Field

from flowkit.data.normalizers.base import SAME, Normalization, Normalizer, OnDevices
from flowkit.data.normalizers.statistics import covariance
from flowkit.errors import UserError
from flowkit.settings import Says

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIM = 8192  # half a gigabyte for the covariance


@dataclass(frozen=True)
class WhiteningNormalizer(Normalizer):
    """y = (x - mean) basis / scale, over flattened rows of D elements; k of D directions, by decreasing variance.

    With all D directions it inverts exactly and rows keep their shape. With fewer, normalized rows are (k,), the rest is lost,
    and `denormalize` maps to the subspace, where both are inverse to each other.
    """

    row_shape: tuple[int, ...]
    mean: np.ndarray  # (D,)
    basis: np.ndarray  # (D, k), orthonormal columns
    scale: np.ndarray  # (k,)
    variance: float = 1.0  # fraction of the data's variance in those directions
    name: str = "whitening"

    @cached_property
    def _tensors(self) -> OnDevices:
        return OnDevices(self.mean, self.basis, self.scale)

    def normalize(self, x: Tensor) -> Tensor:
        mean, basis, scale = self._exact(x)
        y = (x.flatten(1).to(mean.dtype) - mean) @ basis / scale
        return y.to(x.dtype).reshape(len(x), *self.shape(self.row_shape))

    def denormalize(self, x: Tensor) -> Tensor:
        mean, basis, scale = self._exact(x)
        y = (x.flatten(1).to(mean.dtype) * scale) @ basis.T + mean
        return y.to(x.dtype).reshape(len(x), *self.row_shape)

    def _exact(self, x: Tensor) -> tuple[Tensor, ...]:
        """Use float64 if available: float32 products may use TF32, or bf16 under autocast."""
        import torch

        return self._tensors.on(x.device, torch.float32 if x.device.type == "mps" else torch.float64)

    def shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        return row_shape if len(self.scale) == len(self.mean) else (len(self.scale),)

    def fits(self, row_shape: tuple[int, ...]) -> bool:
        return self.row_shape == row_shape

    def log_det(self, row_shape: tuple[int, ...]) -> float:
        if len(self.scale) < len(self.mean):
            raise UserError(
                f"data.normalizer: whitening kept {len(self.scale)} of {len(self.mean)} directions, so the model has no density "
                "over whole rows; train with all components"
            )
        return -float(np.log(self.scale).sum())  # since the basis is orthonormal

    def same_as(self, other: Normalizer, row_shape: tuple[int, ...]) -> bool:
        if not isinstance(other, WhiteningNormalizer) or self.row_shape != other.row_shape:
            return False
        if self.basis.shape != other.basis.shape:
            return False
        moved = np.abs((other.mean - self.mean) @ self.basis) / self.scale
        return bool(
            (moved <= SAME).all()
            and (np.abs(other.scale / self.scale - 1) <= SAME).all()
            and (np.abs(other.basis - self.basis) <= SAME).all()
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.row_shape),
            "components": len(self.scale),
            "variance": self.variance,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the statistics in float64: in float32 the basis would be orthonormal to seven digits only."""
        return {"mean": self.mean, "basis": self.basis, "scale": self.scale}

    @classmethod
    def from_json(cls, content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Self:
        row_shape = tuple(int(size) for size in content["shape"])
        mean, basis, scale = (np.asarray(tensors[name], np.float64) for name in ("mean", "basis", "scale"))
        dim, count = math.prod(row_shape), content["components"]
        if mean.shape != (dim,) or basis.shape != (dim, count) or scale.shape != (count,):
            raise ValueError(f"mean, basis and scale have shapes {mean.shape}, {basis.shape} and {scale.shape}; "
                             f"expected {(dim,)}, {(dim, count)} and {(count,)}")  # fmt: skip
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("mean and scale must be finite, and scale positive")
        if not np.abs(basis.T @ basis - np.eye(count)).max() < 1e-9:
            raise ValueError("the columns of basis are not orthonormal")
        return cls(row_shape, mean, basis, scale, float(content["variance"]))


def _directions_or_share(value: float) -> float:
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise ValueError("neither a number of directions nor a fraction of the variance")
    return value


Components = Annotated[
    int | float,
    AfterValidator(_directions_or_share),
    Says("a whole number >= 1, or a fraction of the variance below 1"),
]


class Whitening(Normalization):
    """Principal components, each scaled to unit variance.

    The floor limits how much noise is amplified in flat directions, or with too few rows to know how flat they are. With
    fewer than about five rows per dimension, held-out rows have a variance above 1; use a floor of 0.1 or fewer components.
    """

    fitted: ClassVar[type[Normalizer]] = WhiteningNormalizer
    floor: float = Field(
        default=0.01, gt=0, description="minimum variance of a direction, relative to the mean over all directions"
    )
    components: Components | None = Field(
        default=None, description="number of directions to keep, or fraction of the variance to keep"
    )

    def fit(self, x: np.ndarray, rows: np.ndarray) -> WhiteningNormalizer:
        """Fit on `x[rows]`. Raises UserError for more components than elements, or rows too wide for a covariance matrix."""
        dim = math.prod(x.shape[1:])
        if dim > MAX_DIM:
            raise UserError(f'data.normalizer: "whitening" needs a {dim} x {dim} matrix for rows of {dim:,} numbers; '
                            f'the limit is {MAX_DIM:,}; use "zscore" or "robust"')  # fmt: skip
        if isinstance(self.components, int) and self.components > dim:
            raise UserError(f"data.normalizer.components: {self.components}, but rows have only {dim} numbers; "
                            f"use at most {dim}")  # fmt: skip
        mean, spread = covariance(x, rows)
        values, basis = np.linalg.eigh(spread)
        values, basis = np.maximum(values[::-1], 0.0), basis[:, ::-1]
        basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(dim)])  # make the signs deterministic
        total = values.sum()
        shares = np.cumsum(values) / total if total > 0 else np.ones(dim)
        count = dim if self.components is None else self.components
        if isinstance(count, float):
            count = min(int(np.searchsorted(shares, count)) + 1, dim)
        scale = np.sqrt(np.maximum(values, self.floor * total / dim)) if total > 0 else np.ones(dim)
        return WhiteningNormalizer(
            tuple(x.shape[1:]),
            mean,
            np.ascontiguousarray(basis[:, :count]),
            scale[:count],
            min(float(shares[count - 1]), 1.0),
        )
