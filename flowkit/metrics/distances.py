"""Distances between rows of features, and the Chamfer distance between sets of points, fast enough for all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a: (N, D), b: (M, D) -> (N, M) Euclidean distances, in the inputs' precision.

    By the expanded square: rows that are equal may come out 1e-8 of their length apart, 1e-4 in single precision.
    """
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


class PointClouds:
    """Sets of points in the plane, rounded to a grid, so that Chamfer distances become a sparse matrix product.

    A cloud's distance field says how far each cell is from its nearest point; the mean over another cloud's points is
    then a histogram times that field. On the rounded points this is exact: all terms are integers below 2^24.

    points: (N, P, 2); `extent`: the grid covers [-extent, extent] squared, what lies beyond is moved to its edge;
    `cells`: a side's number of cells.
    """

    def __init__(self, points: np.ndarray, extent: float = 1.2, cells: int = 120) -> None:
        self.cells, self.step = cells, 2.0 * extent / cells
        index = np.clip(np.floor((np.asarray(points) + extent) / self.step), 0, cells - 1).astype(np.int64)
        self.cell = index[..., 1] * cells + index[..., 0]  # (N, P)
        self._fields: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.cell)

    def histograms(self) -> csr_matrix:
        """(N, cells * cells): each cloud's points counted by cell."""
        from scipy.sparse import csr_matrix

        n, p = self.cell.shape
        counts = np.ones(n * p, np.float32)
        return csr_matrix((counts, self.cell.ravel(), np.arange(n + 1) * p), shape=(n, self.cells**2))

    def fields(self) -> np.ndarray:
        """(cells * cells, N) float32: squared distance, in cells, from each cell to each cloud's nearest point. Kept."""
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
    """(N, M) float32: mean squared distance of a's points to the nearest of b's, plus the other way (1906.12320, eq. 6).

    In the square of the points' unit. Symmetric, and exactly 0 between equal clouds.
    """
    assert a.cells == b.cells and a.step == b.step, "clouds on different grids"
    assert a.cell.shape[1] == b.cell.shape[1], "clouds of different sizes"
    there = a.histograms() @ b.fields()
    back = there if a is b else b.histograms() @ a.fields()
    return (there + back.T) * np.float32(a.step**2 / a.cell.shape[1])


def chamfer_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same distance on the points as they are: one cloud a (P, 2) to each of b (N, P, 2) -> (N,)."""
    squared = np.square(a).sum(-1)[:, None] + np.square(b).sum(-1)[:, None] - 2.0 * (a @ b.transpose(0, 2, 1))
    squared = np.maximum(squared, 0.0)  # (N, P of a, P of b)
    return squared.min(axis=2).mean(axis=1) + squared.min(axis=1).mean(axis=1)
