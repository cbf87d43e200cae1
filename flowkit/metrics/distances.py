"""Distances between rows of features and between sets of points: Euclidean, Chamfer and optimal transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flowkit.flow.couplings.assignment import assign

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a: (N, D), b: (M, D) -> (N, M) Euclidean distances, in the inputs' precision.

    Uses |a|^2 + |b|^2 - 2 a.b, so the distance of equal rows is not exactly 0: up to 1e-8 of their length, or 1e-4 in
    single precision.
    """
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


class PointClouds:
    """Sets of points in the plane, rounded to a grid, so that Chamfer distances become a sparse matrix product.

    The distance field of a cloud holds the distance of each cell to the cloud's nearest point. The mean distance from
    another cloud is the product of its histogram with that field. For the rounded points this is exact, because all terms
    are integers below 2^24.

    points: (N, P, 2). extent: the grid covers [-extent, extent]^2; points outside are moved to its edge. cells: number of
    cells per side.
    """

    def __init__(self, points: np.ndarray, extent: float = 1.2, cells: int = 120) -> None:
        self.cells, self.step = cells, 2.0 * extent / cells
        index = np.clip(np.floor((np.asarray(points) + extent) / self.step), 0, cells - 1).astype(np.int64)
        self.cell = index[..., 1] * cells + index[..., 0]  # (N, P)
        self._fields: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.cell)

    def histograms(self) -> csr_matrix:
        """Return (N, cells * cells): the number of points per cell of each cloud."""
        from scipy.sparse import csr_matrix

        n, p = self.cell.shape
        counts = np.ones(n * p, np.float32)
        return csr_matrix((counts, self.cell.ravel(), np.arange(n + 1) * p), shape=(n, self.cells**2))

    def fields(self) -> np.ndarray:
        """Return (cells * cells, N) float32: squared distance in cells from each cell to each cloud's nearest point. Cached."""
        from scipy.ndimage import distance_transform_edt

        if self._fields is None:
            fields = np.empty((self.cells**2, len(self)), np.float32)
            for row, cell in enumerate(self.cell):
                empty = np.ones(self.cells**2, bool)
                empty[cell] = False
                distance = np.asarray(distance_transform_edt(empty.reshape(self.cells, self.cells)))
                fields[:, row] = np.rint(np.square(distance)).ravel()
            self._fields = fields
        return self._fields


def chamfer(a: PointClouds, b: PointClouds) -> np.ndarray:
    """Return the Chamfer distances (N, M) float32 (arXiv 1906.12320, eq. 6).

    The mean squared distance from a's points to the nearest of b's, plus that from b's points to a's, in squared units of
    the points. Symmetric, and exactly 0 for equal clouds.
    """
    assert a.cells == b.cells and a.step == b.step, "clouds on different grids"
    assert a.cell.shape[1] == b.cell.shape[1], "clouds of different sizes"
    there = a.histograms() @ b.fields()
    back = there if a is b else b.histograms() @ a.fields()
    return (there + back.T) * np.float32(a.step**2 / a.cell.shape[1])


def chamfer_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Chamfer distances (N,) of one cloud a (P, 2) to each of b (N, P, 2), without rounding the points."""
    squared = np.square(a).sum(-1)[:, None] + np.square(b).sum(-1)[:, None] - 2.0 * (a @ b.transpose(0, 2, 1))
    squared = np.maximum(squared, 0.0)  # (N, P of a, P of b)
    return squared.min(axis=2).mean(axis=1) + squared.min(axis=1).mean(axis=1)


def wasserstein2(a: np.ndarray, b: np.ndarray) -> float:
    """Return the 2-Wasserstein distance of point sets a and b, both (N, D), by exact assignment.

    Uses about 24 N^2 bytes of memory: 2.4 GB for 10,000 points. Raises ValueError if the sets differ in size or are not
    finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(f"point sets of shapes {a.shape} and {b.shape}; expected two of the same (N, D), N >= 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a point set holds NaN or infinity; its distance to another is not defined")
    matched = assign(squared_distances(a, b))
    return float(np.sqrt(np.square(a - b[matched]).sum(axis=1).mean()))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a: (N, D), b: (M, D) -> (N, M) squared distances, for few dimensions. More accurate for near points than `euclidean`."""
    total = np.square(a[:, None, 0] - b[None, :, 0])
    for axis in range(1, a.shape[1]):
        total += np.square(a[:, None, axis] - b[None, :, axis])
    return total


def path_energy(velocity: Callable[[Tensor, Tensor], Tensor], x0: Tensor, steps: int = 100) -> float:
    """Return the mean over x0 (N, D) of the integral of |v|^2 over t in [0, 1], along the Euler solution (arXiv 2307.03672).

    velocity: (x (N, D), t (N,)) -> (N, D). The result is at least the squared 2-Wasserstein distance between x0 and the end
    points, and equal to it if the flow is the optimal transport.
    """
    import torch

    x, total = x0, 0.0
    with torch.no_grad():
        for step in range(steps):
            v = velocity(x, x.new_full((len(x),), step / steps))
            total = total + v.square().sum(dim=1).mean() / steps
            x = x + v / steps
    return float(total)


def normalized_path_energy(energy: float, w2: float) -> float:
    """Return |energy - w2^2| / w2^2 (arXiv 2307.03672). 0 is optimal transport. w2: between the two true distributions."""
    return abs(energy - w2**2) / w2**2
