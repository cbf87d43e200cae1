"""Statistics of many rows, in float64 and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from flowkit.data.arrays import forget_pages, gather

CHUNK_BYTES = 1 << 24  # bytes of stored rows per chunk
QUARTILE_ROWS = 1 << 16  # 256 MB of 1024-d rows; the error of their median is 0.5% of a standard deviation
COLUMNS = 64  # columns per quartile computation


def moments(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (divided by N) of every element: x (N, ...) -> two arrays (...)."""
    mean, variance = _pooled(x, rows, lambda gaps: np.einsum("nd,nd->d", gaps, gaps))
    return mean.reshape(x.shape[1:]), variance.reshape(x.shape[1:])


def covariance(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and covariance (D, D) (divided by N) of rows with D elements."""
    return _pooled(x, rows, lambda gaps: gaps.T @ gaps)


def by_columns(
    x: np.ndarray, rows: np.ndarray, statistic: Callable[[np.ndarray], tuple[np.ndarray, ...]]
) -> list[np.ndarray]:
    """Apply `statistic` to every element, in blocks (n, C) float64 of its values in all rows, or in QUARTILE_ROWS fixed ones.

    Return one array (...) for each array (C,) that it returns.
    """
    if len(rows) > QUARTILE_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, QUARTILE_ROWS, replace=False))
    picked = gather(x, rows).reshape(len(rows), -1)
    blocks = [
        statistic(np.asarray(picked[:, start : start + COLUMNS], np.float64, order="F"))
        for start in range(0, picked.shape[1], COLUMNS)
    ]
    return [np.concatenate(parts).reshape(x.shape[1:]) for parts in zip(*blocks, strict=True)]


def _pooled(
    x: np.ndarray, rows: np.ndarray, square: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of the rows, and the mean over b of `square` (b, D) -> (...) of their deviations.

    Uses Chan et al.'s pairwise update: sums of squares would cancel if the mean is large relative to the deviation.
    """
    size = int(np.prod(x.shape[1:]))
    count, mean = 0, np.zeros(size)
    total = square(np.zeros((0, size)))
    for chunk in _chunks(x, rows):
        own, both = chunk.mean(axis=0), count + len(chunk)
        total += square(chunk - own) + square((own - mean)[None]) * (count * len(chunk) / both)
        mean += (own - mean) * (len(chunk) / both)
        count = both
    return mean, total / max(count, 1)


def _chunks(x: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows as (b, D) float64 chunks."""
    step = max(1, CHUNK_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(rows), step):
        picked = rows[start : start + step]
        yield x[picked].reshape(len(picked), -1).astype(np.float64)
        forget_pages(x)
