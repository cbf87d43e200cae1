"""Distances between distributions by their moments and kernel means."""

from __future__ import annotations

import numpy as np


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the Gaussians with the sets' moments (1706.08500, eq. 6).

    a: (N, D), b: (M, D). Biased upwards on few rows, so compare equal counts only.
    """
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + bures(np.cov(a, rowvar=False, ddof=1), np.cov(b, rowvar=False, ddof=1)))


def frechet_few(a: np.ndarray, b: np.ndarray) -> float:
    """The same distance by way of the rows' inner products: faster where there are fewer rows than dimensions.

    With A and B the centered rows over the roots of N - 1 and M - 1, tr (S_a^1/2 S_b S_a^1/2)^1/2 is the sum of the singular
    values of A B^T, an (N, M) matrix. They come as roots of eigenvalues: exact to about 1e-6 of the largest.
    """
    gap = a.mean(axis=0) - b.mean(axis=0)
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    product = a @ b.T
    product = product @ product.T if len(a) <= len(b) else product.T @ product
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0.0)).sum()
    return float(gap @ gap + max(np.square(a).sum() + np.square(b).sum() - 2.0 * cross, 0.0))


def bures(a: np.ndarray, b: np.ndarray) -> float:
    """tr(a + b - 2 (a^1/2 b a^1/2)^1/2) of two covariances (D, D): never below 0, and singular ones will do."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    root = _root(a)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0.0)).sum()
    return float(max(np.trace(a) + np.trace(b) - 2.0 * cross, 0.0))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def rbf_kernel(distances: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-d^2 / (2 bandwidth^2)) of a matrix of Euclidean distances."""
    return np.exp(-0.5 * np.square(distances / bandwidth))


def mmd2(kernel_a: np.ndarray, kernel_ab: np.ndarray, kernel_b: np.ndarray) -> float:
    """Squared maximum mean discrepancy, unbiased (0805.2368, eq. 3): about 0 for one distribution, may fall below it.

    kernel_a: (N, N), kernel_ab: (N, M), kernel_b: (M, M).
    """
    return float(_mean_off_diagonal(kernel_a) + _mean_off_diagonal(kernel_b) - 2.0 * kernel_ab.mean())


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
