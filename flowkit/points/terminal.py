"""Points in the terminal: all of them in one braille picture, over the data."""

from __future__ import annotations

import numpy as np

from flowkit.braille import braille_lines
from flowkit.domain import Preview
from flowkit.points.window import Window, window_of

COLUMNS, ROWS = 36, 18  # characters; 2 columns to a row look square
BEHIND = 2000  # points of the data that are drawn: more would fill its every cell


def picture(points: np.ndarray, data: np.ndarray | None = None, title: str = "") -> Preview:
    """points (N, 2) as one picture, data (M, 2) behind them in the same window, which is the data's where there is any."""
    window = window_of(points if data is None else data)
    away = int(len(points) - window.inside(points).sum())
    behind = () if data is None else _lines(data[:BEHIND], window)
    return Preview(title or f"{len(points):,} points", _lines(points, window), f"{away} off it" if away else "", behind)


def statistics(points: np.ndarray) -> Preview:
    """What can be said of points (N, D) that are not in a plane."""
    rows = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    shown = ("mean", rows.mean(axis=0)), ("std", rows.std(axis=0))
    lines = [f"{name:<5}" + " ".join(f"{value:+.3f}" for value in values[:8]) for name, values in shown if len(rows)]
    width = max(map(len, lines), default=0)
    return Preview(f"{len(points):,} points", tuple(line.ljust(width) for line in (*lines, "")))


def _lines(points: np.ndarray, window: Window) -> tuple[str, ...]:
    on = np.zeros((4 * ROWS, 2 * COLUMNS), bool)
    seen = points[window.inside(points)].astype(np.float64)
    column, row = np.floor(window.place(seen) * (2 * COLUMNS, 4 * ROWS)).astype(int).T
    on[row, column] = True
    return braille_lines(on)
