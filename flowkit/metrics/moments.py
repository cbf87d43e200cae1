"""Distances between distributions by their moments and kernel means."""

from __future__ import annotations

import numpy as np


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance of Gaussians fitted to a and b (arXiv 1706.08500, eq. 6).

    a: (N, D), b: (M, D). Biased upwards for few rows, so compare results for equal counts only.
    """
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + bures(np.cov(a, rowvar=False, ddof=1), np.cov(b, rowvar=False, ddof=1)))


def frechet_few(a: np.ndarray, b: np.ndarray) -> float:
    """Return the same as `frechet`, computed from inner products. Faster for fewer rows than dimensions.

    With A and B the centered rows divided by sqrt(N - 1) and sqrt(M - 1), tr (S_a^1/2 S_b S_a^1/2)^1/2 is the sum of the
    singular values of A B^T, an (N, M) matrix. They are computed as square roots of eigenvalues, accurate to about 1e-6 of
    the largest.
    """
    gap = a.mean(axis=0) - b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    product = a @ b.T
    product = product @ product.T if len(a) <= len(b) else product.T @ product
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0.0)).sum()
    return float(gap @ gap + max(np.square(a).sum() + np.square(b).sum() - 2.0 * cross, 0.0))


def bures(a: np.ndarray, b: np.ndarray) -> float:
    """Return tr(a + b - 2 (a^1/2 b a^1/2)^1/2) of two covariances (D, D), which may be singular. Never negative."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    root = _root(a)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum()
    return float(max(np.trace(a) + np.trace(b) - 2.0 * cross, 0.0))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def rbf_kernel(distances: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return exp(-d^2 / (2 bandwidth^2)) for a matrix of Euclidean distances."""
    return np.exp(-0.5 * np.square(distances / bandwidth))


def mmd2(kernel_a: np.ndarray, kernel_ab: np.ndarray, kernel_b: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy (arXiv 0805.2368, eq. 3). May be slightly negative.

    kernel_a: (N, N), kernel_ab: (N, M), kernel_b: (M, M).
    """
    return float(_mean_off_diagonal(kernel_a) + _mean_off_diagonal(kernel_b) - 2.0 * kernel_ab.mean())


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
