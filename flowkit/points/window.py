"""The part of the plane that a picture shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAIL = 0.002  # share of the points on each side that a window need not hold
MARGIN = 0.08  # of its side, around the points


@dataclass(frozen=True)
class Window:
    """The square [left, left + side] x [bottom, bottom + side]; y points up."""

    left: float
    bottom: float
    side: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """points (N, 2) -> (N, 2): to the right and downwards from the upper left corner, 1 being the side."""
        with np.errstate(over="ignore"):  # a diverged model's points are as far off as numbers go
            return np.stack([points[:, 0] - self.left, self.bottom + self.side - points[:, 1]], axis=1) / self.side

    def inside(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool: which of points (N, 2) it shows; none that are not finite."""
        placed = self.place(np.where(np.isfinite(points), points, np.inf))
        return np.all((placed >= 0) & (placed < 1), axis=1)


def around(*windows: Window) -> Window:
    """Return the smallest window that contains all of these."""
    left, bottom = (min(getattr(window, edge) for window in windows) for edge in ("left", "bottom"))
    right = max(window.left + window.side for window in windows)
    top = max(window.bottom + window.side for window in windows)
    side = max(right - left, top - bottom)
    return Window((left + right - side) / 2, (bottom + top - side) / 2, side)


def window_of(points: np.ndarray) -> Window:
    """Return a window that holds nearly all of points (N, 2), leaving out those that are not finite and a few far ones."""
    points = np.asarray(points, np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return Window(-1.0, -1.0, 2.0)
    low, high = np.quantile(points, [TAIL, 1 - TAIL], axis=0)
    middle, side = (low + high) / 2, float((high - low).max()) * (1 + 2 * MARGIN) or 1.0
    return Window(float(middle[0] - side / 2), float(middle[1] - side / 2), side)
