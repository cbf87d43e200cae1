"""What a velocity loss can be held against: the best that a Gaussian can do on the same rows, noises and times.

For data N(mu, S) and unit noise the best velocity E[dx_t/dt | x_t] is affine in x_t, along each axis of S by itself
(arXiv 2210.02747 in general; the Gaussian case by conditioning). With y = x1 - mu and noise z along an axis of variance
lambda, what remains of the target is

    W (sigma y - alpha lambda z) / (alpha^2 lambda + sigma^2),    W = alpha' sigma - alpha sigma',

a form without cancellation at either end of the path. A network that stays above this has not learned the covariance.
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

MAX_ROWS = 1 << 15  # fitted on: 32 a dimension of SONAR's; more would change the fourth digit and take longer
MAX_DIMENSION = 2048  # of the full Gaussian: beyond it its decompositions take minutes
VARIANCE_FLOOR = 1e-4  # of the mean variance
BLOCK = 256  # neighbouring rows taken together: a memory map then reads few pages that nobody asked for
CHUNK_BYTES = 1 << 26


class GaussianBaseline:
    """A diagonal and a full Gaussian fitted to training rows as the model sees them, and their losses.

    Both ignore classes and conditions, so a conditional model can be expected to beat them. The full covariance is
    regularised (see `fit_gaussian`): on few rows the maximum likelihood would do worse than the diagonal on new ones.
    """

    def __init__(
        self, path: GaussianPath, mean: np.ndarray, variances: np.ndarray, covariance: np.ndarray | None,
        *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        """mean, variances: (D,); covariance: (D, D), or None to go without the full Gaussian."""
        self.path = path
        put = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)  # noqa: E731
        # A dimension that is constant in training may move elsewhere; a Gaussian that is sure of it pays without bound.
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
        """Fit on `x[rows]` (training rows; x may be memory-mapped), normalised, in float64 and in chunks.

        Of more than `max_rows` rows, blocks of neighbours spread evenly over all of them stand in. Rows are flattened; above
        MAX_DIMENSION dimensions there is no full Gaussian.
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
        """("diagonal", "full"), or without the latter."""
        return tuple(self._axes)

    def losses(self, kind: str, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Squared error of that Gaussian's best velocity, mean over the elements: x0, x1 (B, ...) normalised, t (B,) -> (B,)."""
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
    """At most `limit` of `rows`, in blocks of neighbours at even distances; all of them where there are no more."""
    if len(rows) <= limit:
        return rows
    size = min(BLOCK, limit)
    count = limit // size
    starts = np.linspace(0, len(rows) - size, count).astype(np.int64)
    return rows[np.unique(starts[:, None] + np.arange(size))]


def gaussian_losses(
    baseline: GaussianBaseline, x0: Tensor, x1: Tensor, t: Tensor, batch_size: int = 1024
) -> dict[str, float]:
    """{"diagonal": loss, "full": loss}, each the mean over rows and elements; "full" only where it was fitted."""
    found = {}
    for kind in baseline.kinds:
        parts = [
            baseline.losses(kind, *(tensor[start : start + batch_size] for tensor in (x0, x1, t))).double().sum()
            for start in range(0, len(t), batch_size)
        ]
        found[kind] = float(torch.stack(parts).sum()) / len(t)
    return found
