"""Gaussian baselines of the velocity loss: the best that a Gaussian can do on the same rows, noise and times.

For data N(mu, S) and unit noise the best velocity E[dx_t/dt | x_t] is affine in x_t, independently along each axis of S
(arXiv 2210.02747 in general; the Gaussian case by conditioning). With y = x1 - mu and noise z along an axis of variance
lambda, the remaining error of the target is

    W (sigma y - alpha lambda z) / (alpha^2 lambda + sigma^2),    W = alpha' sigma - alpha sigma',

a form without cancellation at either end of the path. A network that does not beat this has not learned the covariance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flowkit.data.arrays import forget_pages
from flowkit.data.normalizers import Normalizer
from flowkit.flow.paths import GaussianPath
from flowkit.metrics.gaussian import fit_gaussian

MAX_ROWS = 1 << 15  # rows to fit on, 32 per dimension of SONAR; more would change the fourth digit and take longer
MAX_DIMENSION = 2048  # limit of the full Gaussian, whose decompositions then take minutes
VARIANCE_FLOOR = 1e-4  # relative to the mean variance
BLOCK = 256  # consecutive rows read together, which suits the pages of a memory map
CHUNK_BYTES = 1 << 26


class GaussianBaseline:
    """A diagonal and a full Gaussian fitted to training rows as the model sees them, and their losses.

    Both ignore classes and conditions, so a conditional model should beat them. The full covariance is regularized (see
    `fit_gaussian`): with few rows the maximum likelihood estimate would do worse on new rows than the diagonal.
    """

    def __init__(
        self, path: GaussianPath, mean: np.ndarray, variances: np.ndarray, covariance: np.ndarray | None,
        *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        """mean, variances: (D,); covariance: (D, D), or None for no full Gaussian."""
        self.path = path
        put = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)  # noqa: E731
        # A dimension that is constant in training may vary in validation, with an unbounded loss for zero variance.
        floor = max(VARIANCE_FLOOR * float(variances.mean()), float(np.finfo(np.float32).tiny))
        self.mean = put(mean)
        self._axes: dict[str, tuple[Tensor, Tensor | None]] = {"diagonal": (put(np.maximum(variances, floor)), None)}
        if covariance is not None:
            values, vectors = np.linalg.eigh(covariance)
            self._axes["full"] = put(np.maximum(values, floor)), put(vectors)

    @classmethod
    def fit(
        cls, x: np.ndarray, rows: np.ndarray, normalizer: Normalizer, path: GaussianPath,
        *, max_rows: int = MAX_ROWS, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> GaussianBaseline:  # fmt: skip
        """Fit on `x[rows]` (training rows; x may be memory-mapped), normalized, in float64 and in chunks.

        With more than `max_rows` rows, uses evenly spread blocks of consecutive rows. Rows are flattened. Above MAX_DIMENSION
        dimensions there is no full Gaussian.
        """
        used = spread_blocks(rows, max_rows)

        def chunks() -> Iterator[np.ndarray]:
            for part in np.array_split(used, max(1, -(-len(used) * x[:1].nbytes * 2 // CHUNK_BYTES))):
                yield normalizer.normalize(torch.from_numpy(x[part].astype(np.float64))).flatten(1).numpy()
                forget_pages(x)

        dimension = next(chunks()).shape[1]
        fitted = fit_gaussian(chunks, full=dimension <= MAX_DIMENSION)
        return cls(path, fitted.mean, fitted.variances, fitted.covariance, device=device, dtype=dtype)

    @property
    def kinds(self) -> tuple[str, ...]:
        """("diagonal", "full"), or only the first."""
        return tuple(self._axes)

    def losses(self, kind: str, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return the squared error of that Gaussian's best velocity, mean over elements: x0, x1 (B, ...), t (B,) -> (B,)."""
        variance, axes = self._axes[kind]
        y, z = x1.flatten(1).to(self.mean) - self.mean, x0.flatten(1).to(self.mean)
        if axes is not None:
            y, z = y @ axes, z @ axes
        t = t.to(self.mean)
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        wronskian = self.path.d_alpha(t)[:, None] * sigma - alpha * self.path.d_sigma(t)[:, None]
        error = wronskian * (sigma * y - alpha * variance * z) / (alpha.square() * variance + sigma.square())
        return error.square().mean(1)


def spread_blocks(rows: np.ndarray, limit: int) -> np.ndarray:
    """Return at most `limit` of `rows`, in evenly spread blocks of consecutive rows."""
    if len(rows) <= limit:
        return rows
    size = min(BLOCK, limit)
    count = limit // size
    starts = np.linspace(0, len(rows) - size, count).astype(np.int64)
    return rows[np.unique(starts[:, None] + np.arange(size))]


def gaussian_losses(
    baseline: GaussianBaseline, x0: Tensor, x1: Tensor, t: Tensor, batch_size: int = 1024
) -> dict[str, float]:
    """Return {"diagonal": loss, "full": loss}, means over rows and elements; "full" only if it was fitted."""
    found = {}
    for kind in baseline.kinds:
        parts = [
            baseline.losses(kind, *(tensor[start : start + batch_size] for tensor in (x0, x1, t))).double().sum()
            for start in range(0, len(t), batch_size)
        ]
        found[kind] = float(torch.stack(parts).sum()) / len(t)
    return found
