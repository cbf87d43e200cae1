"""Nearest-neighbor metrics of two sets of rows, computed from distance matrices."""

from __future__ import annotations

import numpy as np


def one_nn_accuracy(within_a: np.ndarray, between: np.ndarray, within_b: np.ndarray) -> float:
    """Return the leave-one-out accuracy of a 1-NN classifier of set a against set b (arXiv 1610.06545, 1906.12320).

    within_a: (N, N), between: (N, M), within_b: (M, M) distances. 0.5 is perfect, 1 means that the sets are separable, and
    values below 0.5 mean copies. A tie counts half. Both sets have equal weight, even if their sizes differ.
    """
    a = _nearer(_nearest_other(within_a), between.min(axis=1))
    b = _nearer(_nearest_other(within_b), between.min(axis=0))
    return float((a + b) / 2)


def _nearer(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(own < other) + 0.5 * np.mean(own == other))


def _nearest_other(within: np.ndarray) -> np.ndarray:
    return kth_nearest(within, 1)


def kth_nearest(within: np.ndarray, k: int) -> np.ndarray:
    """(N, N) distances within a set -> (N,) distance to the k-th nearest other row. Raises ValueError if N <= k."""
    if len(within) <= k:
        raise ValueError(f"{len(within)} rows have no {k}-th nearest other row; expected at least {k + 1}")
    others = within.copy()
    np.fill_diagonal(others, np.inf)
    return np.partition(others, k - 1, axis=1)[:, k - 1]


def matching(between: np.ndarray) -> tuple[float, float]:
    """Return coverage and minimum matching distance (arXiv 1707.02392; 1906.12320, eq. 8 and 9).

    between: (samples, reference). Coverage: the fraction of reference rows that are the nearest one of some sample. Minimum
    matching distance: the mean distance of reference rows to the nearest sample.
    """
    covered = np.unique(between.argmin(axis=1)).size / between.shape[1]
    return float(covered), float(between.min(axis=0).mean())


def prdc(real: np.ndarray, between: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float, float, float]:
    """Return precision, recall (1904.06991), density and coverage (2002.09797) with balls to the k-th nearest neighbor.

    real: (N, N), between: (N real, M fake), fake: (M, M) distances. All are 0 to 1 but density, which may exceed 1.
    """
    real_radius, fake_radius = kth_nearest(real, k), kth_nearest(fake, k)
    in_real = between < real_radius[:, None]  # (N, M): fake row lies in this real row's ball
    in_fake = between < fake_radius[None, :]
    return (
        float(in_real.any(axis=0).mean()),
        float(in_fake.any(axis=1).mean()),
        float(in_real.sum(axis=0).mean() / k),
        float((between.min(axis=1) < real_radius).mean()),
    )


def knn_classify(distances: np.ndarray, labels: np.ndarray, k: int = 5) -> np.ndarray:
    """Return the majority class of the k nearest rows. A tie goes to the class with the nearest row.

    distances: (Q, N) from queries to labeled rows; labels: (N,) -> (Q,).
    """
    k = min(k, len(labels))
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(distances, nearest, axis=1).argsort(axis=1, kind="stable")
    voted = labels[np.take_along_axis(nearest, order, axis=1)]  # (Q, k), nearest first
    votes = (voted[:, :, None] == voted[:, None, :]).sum(axis=2)  # how many of the k have the same class
    return voted[np.arange(len(voted)), votes.argmax(axis=1)]
