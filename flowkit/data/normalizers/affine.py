"""Normalizers: x -> (x - shift) / scale, fitted once on training rows, inverted exactly when sampling.

A flow from unit noise wants data of about unit variance. The statistics travel in the checkpoint's sidecar.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import UserError, listing, nearest

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZERS = ("none", "global", "zscore")
# Constant elements (SONAR has two that nearly are) would otherwise divide by zero and blow rounding up to unit variance.
STD_FLOOR = 1e-2  # of the root mean square of all elements' standard deviations


@dataclass(frozen=True)
class Normalizer:
    """An affine map. `shift` and `scale` (float64) broadcast against a row: scalars for "global", x's shape for "zscore"."""

    name: str
    shift: np.ndarray
    scale: np.ndarray
    _tensors: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def normalize(self, x: Tensor) -> Tensor:
        """x (B, ...) in the domain's units -> about zero mean and unit variance."""
        shift, scale = self._like(x)
        return (x - shift) / scale

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        shift, scale = self._like(x)
        return x * scale + shift

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        # Kept by device and dtype: a copy from the host waits for the device, and auxiliary losses come here every step.
        found = self._tensors.get((x.device, x.dtype))
        if found is None:
            with torch.inference_mode(False):  # or a tensor made while sampling could not enter a graph when training
                found = torch.as_tensor(self.shift).to(x), torch.as_tensor(self.scale).to(x)
            self._tensors[x.device, x.dtype] = found
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Normalizer:
        """Raises KeyError, TypeError or ValueError when `content` is not what `to_json` wrote."""
        shift, scale = (np.asarray(content[name], np.float64) for name in ("shift", "scale"))
        if not (np.isfinite(shift).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("shift and scale must be finite, and scale positive")
        return Normalizer(str(content["name"]), shift, scale)


def fit_normalizer(name: str, x: np.ndarray, rows: np.ndarray) -> Normalizer:
    """Fit on `x[rows]` (training rows only), in chunks, so that memory-mapped data is never copied whole.

    name: "none"; "global", one mean and one standard deviation over every element; "zscore", one of each per element.
    """
    if name not in NORMALIZERS:
        raise UserError(f"unknown normalizer {name!r}; known are {listing(NORMALIZERS)}{nearest(name, NORMALIZERS)}")
    if name == "none":
        return Normalizer(name, np.zeros(()), np.ones(()))
    count, mean, spread = 0, np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for chunk_rows in np.array_split(rows, max(1, len(rows) * x[:1].nbytes >> 26)):
        chunk = x[chunk_rows].astype(np.float64)
        if not len(chunk):
            continue
        # Chan et al.'s pairwise update: sums of squares would cancel where the mean is large beside the deviation.
        delta = chunk.mean(axis=0) - mean
        total = count + len(chunk)
        spread += ((chunk - chunk.mean(axis=0)) ** 2).sum(axis=0) + delta**2 * count * len(chunk) / total
        mean += delta * len(chunk) / total
        count = total
    variance = spread / max(count, 1)
    if name == "global":
        scale = np.sqrt((variance + (mean - mean.mean()) ** 2).mean())
        return Normalizer(name, np.asarray(mean.mean()), np.asarray(scale if scale > 0 else 1.0))
    floor = STD_FLOOR * np.sqrt(variance.mean())
    return Normalizer(name, mean, np.maximum(np.sqrt(variance), floor if floor > 0 else 1.0))
