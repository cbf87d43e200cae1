"""Gaussians fitted to rows: the best that moments alone can do. A model that does no better has learned two moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

FOLDS = 5
PLENTY = 20  # rows a dimension from which the rows' own covariance is as good as any


@dataclass(frozen=True)
class FittedGaussian:
    """Moments of rows: mean and variances (D,) by maximum likelihood, covariance (D, D), where there is one, regularised."""

    mean: np.ndarray
    variances: np.ndarray
    covariance: np.ndarray | None


def fit_gaussian(chunks: Callable[[], Iterable[np.ndarray]], *, full: bool = True) -> FittedGaussian:
    """Moments of the rows in `chunks()`, each (n, D) float64; it is called twice, and gives at least one row.

    On few rows the covariance of maximum likelihood is singular, sure of what it never saw, and worse on new rows than its
    own diagonal. So the rows' correlations keep their eigenvectors, and each eigenvalue becomes the variance that rows
    left out have along the like eigenvector of the others (cross-validated shrinkage: Bartz, 1611.00798), in ascending
    order. That is nearly the best that those eigenvectors allow; the linear shrinkage of Ledoit and Wolf, good in the
    Frobenius norm, takes much from a spectrum that falls as steeply as that of embeddings. From PLENTY rows a dimension
    nothing is changed; on fewer rows than 2 FOLDS there is no covariance.
    """
    count, total = 0, np.zeros(())
    for rows in chunks():
        count, total = count + len(rows), total + rows.sum(axis=0)
    mean = total / count
    squares = np.zeros_like(mean)
    folds = FOLDS if count < PLENTY * len(mean) else 1
    full = full and count >= 2 * FOLDS
    second, counts, seen = np.zeros((folds, *2 * mean.shape)) if full else np.empty(0), np.zeros(folds), 0
    for rows in chunks():
        centered = rows - mean
        squares += np.square(centered).sum(axis=0)
        # Row i is in fold i mod FOLDS: rows may come sorted, and every fold should have some of each kind.
        for fold in range(folds if full else 0):
            part = centered[(fold - seen) % folds :: folds]
            second[fold] += part.T @ part
            counts[fold] += len(part)
        seen += len(rows)
    variances = squares / count
    if not full:
        return FittedGaussian(mean, variances, None)
    if folds == 1:
        return FittedGaussian(mean, variances, second[0] / count)
    deviations = np.sqrt(variances)
    inverse = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
    second *= inverse[:, None] * inverse
    correlations = _regularised(second, counts) * (deviations[:, None] * deviations)
    return FittedGaussian(mean, variances, correlations)


def _regularised(second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """second: (K, D, D) sums of squares by fold, of `counts` (K,) rows -> (D, D), cross-validated as `fit_gaussian` says."""
    from scipy.optimize import isotonic_regression

    whole, spectrum = second.sum(axis=0), np.zeros(second.shape[1])
    for own in second:
        _, vectors = np.linalg.eigh(whole - own)
        spectrum += np.einsum("ij,ij->j", vectors, own @ vectors) / counts.sum()
    _, vectors = np.linalg.eigh(whole)
    return (vectors * isotonic_regression(spectrum).x) @ vectors.T


def sample_class_gaussians(x: np.ndarray, labels: np.ndarray, wanted: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Draws from a full Gaussian per class, all coordinates together, fitted by maximum likelihood.

    x: (N, ...) rows to fit on, labels: (N,) their classes, wanted: (M,) the classes to draw, each of which has a row
    in x -> (M, ...) float32. A class of fewer rows than coordinates has a singular covariance; its Gaussian then lives
    on the plane through its rows. That needs no ridge, and shrinking towards the pooled or a round covariance made
    poorer drawings of real characters, so nothing is added.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    out = np.empty((len(wanted), flat.shape[1]))
    for label in np.unique(wanted):
        places, rows = np.flatnonzero(wanted == label), flat[labels == label]
        mean = rows.mean(axis=0)
        # With C the centered rows, z C / sqrt(n) for unit noise z has their covariance: no (D, D) matrix is decomposed.
        noise = rng.standard_normal((len(places), len(rows))) / np.sqrt(len(rows))
        out[places] = mean + noise @ (rows - mean)
    return out.reshape(len(wanted), *x.shape[1:]).astype(np.float32)
