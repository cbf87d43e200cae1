"""The nearest training sketch: whether a model draws anew or from memory."""

from __future__ import annotations

import numpy as np

from flowkit.metrics.distances import chamfer_pairs, euclidean
from flowkit.sketch.features import blurred_grid, ink_points

CANDIDATES = 32  # nearest on the blurred ink grid; among them the Chamfer distance decides
_AT_ONCE = 128


class NearestSketch:
    """Finds the nearest of some sketches `x`: (N, S, 8). What it needs of them is worked out once."""

    def __init__(self, x: np.ndarray) -> None:
        self.grid, self.points = _describe(x)

    def __call__(self, x: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """x: (M, S, 8) -> distances (M,) and which of the N is nearest (M,).

        The distance is the root of the Chamfer distance of 128 points along the ink, in canvas units. own: (M,) which
        of the N a row of x itself is, if it is one: that one does not count.
        """
        grid, points = _describe(x)
        distance, nearest = np.empty(len(x)), np.empty(len(x), np.int64)
        few = min(CANDIDATES, len(self.grid) - (own is not None))
        for start in range(0, len(x), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(x)))
            apart = euclidean(grid[rows], self.grid)
            if own is not None:
                apart[np.arange(len(rows)), own[rows]] = np.inf
            for row, options in zip(rows, np.argpartition(apart, few - 1, axis=1)[:, :few], strict=True):
                exact = chamfer_pairs(points[row], self.points[options])
                best = int(exact.argmin())
                distance[row], nearest[row] = np.sqrt(exact[best]), options[best]
        return distance, nearest


def _describe(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return blurred_grid(x), ink_points(x).astype(np.float32)
