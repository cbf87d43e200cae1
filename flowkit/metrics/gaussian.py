"""Gaussians fitted to data, as a baseline: a model that is not better has learned only mean and covariance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

FOLDS = 5
PLENTY = 20  # rows per dimension from which no shrinkage is needed


@dataclass(frozen=True)
class FittedGaussian:
    """Moments of rows: mean and variances (D,) by maximum likelihood, and a regularized covariance (D, D) or None."""

    mean: np.ndarray
    variances: np.ndarray
    covariance: np.ndarray | None


def fit_gaussian(chunks: Callable[[], Iterable[np.ndarray]], *, full: bool = True) -> FittedGaussian:
    """Fit a Gaussian to the rows in `chunks()`, each (n, D) float64. It is called twice, and yields at least one row.

    With few rows, the maximum-likelihood covariance is singular, and fits new rows worse than its own diagonal. So the
    correlations keep their eigenvectors, but each eigenvalue is replaced by the variance of held-out rows along the
    corresponding eigenvector of the others (cross-validated shrinkage: Bartz, arXiv 1611.00798), in ascending order. This
    is close to optimal for these eigenvectors. The linear shrinkage of Ledoit and Wolf distorts spectra that decay as
    steeply as those of embeddings. From PLENTY rows per dimension on, nothing is changed. With fewer than 2 * FOLDS rows,
    the covariance is None.
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
        # Row i is in fold i mod FOLDS, so that the folds are balanced if rows are sorted.
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
    correlations = _regularized(second, counts) * (deviations[:, None] * deviations)
    return FittedGaussian(mean, variances, correlations)


def _regularized(second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """second: (K, D, D) sums of squares of folds with `counts` (K,) rows -> (D, D), regularized as in `fit_gaussian`."""
    from scipy.optimize import isotonic_regression

    whole, spectrum = second.sum(axis=0), np.zeros(second.shape[1])
    for own in second:
        _, vectors = np.linalg.eigh(whole - own)
        spectrum += np.einsum("ij,ij->j", vectors, own @ vectors) / counts.sum()
    _, vectors = np.linalg.eigh(whole)
    return (vectors * isotonic_regression(spectrum).x) @ vectors.T


def sample_class_gaussians(x: np.ndarray, labels: np.ndarray, wanted: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Sample from a Gaussian per class over all coordinates, fitted by maximum likelihood.

    x: (N, ...) rows to fit on, labels: (N,) their classes, wanted: (M,) the classes to draw, each of which has a row
    in x -> (M, ...) float32. A class with fewer rows than coordinates has a singular covariance, and its samples lie in the
    affine span of its rows. The covariance is not regularized: shrinking it to the pooled or an isotropic one gave worse
    drawings of real characters.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    out = np.empty((len(wanted), flat.shape[1]))
    for label in np.unique(wanted):
        places, rows = np.flatnonzero(wanted == label), flat[labels == label]
        mean = rows.mean(axis=0)
        # With centered rows C and unit noise z, z C / sqrt(n) has their covariance. No (D, D) matrix is decomposed.
        noise = rng.standard_normal((len(places), len(rows))) / np.sqrt(len(rows))
        out[places] = mean + noise @ (rows - mean)
    return out.reshape(len(wanted), *x.shape[1:]).astype(np.float32)
