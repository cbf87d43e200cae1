"""Sketches in the terminal: braille cells of 2 x 4 dots."""

from __future__ import annotations

import numpy as np

from flowkit.braille import braille_lines
from flowkit.sketch.raster import trace


def braille(sketch: np.ndarray, columns: int = 24, rows: int = 12) -> tuple[str, ...]:
    """`sketch` (S, 8) as `rows` lines of `columns` characters; the canvas fills them (2 columns to a row look square).

    Lines are one dot thin. What lies off the canvas is left out.
    """
    wide, high = 2 * columns, 4 * rows
    points, owner = trace(sketch, spacing=0.5 / max(wide, high))
    dots = np.floor((points + 1) * (np.array([wide, high]) / 2)).clip(-2, max(wide, high) + 1).astype(int)
    dots = _thin(dots, owner)
    x, y = dots[((dots >= 0) & (dots < (wide, high))).all(axis=1)].T
    on = np.zeros((high, wide), bool)
    on[y, x] = True
    return braille_lines(on)


def _thin(dots: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Drop repeats, and the inner dot of every right-angled step, so that a slanting line is a chain of diagonals."""
    keep = np.ones(len(dots), bool)
    keep[1:] = (np.diff(dots, axis=0) != 0).any(axis=1) | (np.diff(owner) != 0)
    dots, owner = dots[keep], owner[keep]
    keep = np.ones(len(dots), bool)
    if len(dots) > 2:
        corner = (np.abs(dots[2:] - dots[:-2]) == 1).all(axis=1) & (owner[2:] == owner[:-2])
        for i in np.flatnonzero(corner) + 1:  # in order: a dot next to one just dropped must stay
            keep[i] = not keep[i - 1]
    return dots[keep]
