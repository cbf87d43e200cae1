"""Points in the terminal: all of them in one braille picture, over the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flowkit.braille import braille_lines
from flowkit.domain import Preview
from flowkit.points.window import Window, window_of

ROWS = 18  # lines of text, each of twice as many characters: that looks square
LEAST, MOST = 6, 30  # lines where the place decides
BEHIND = 2000  # points of the data that are drawn in 18 lines: more would fill its every cell


def picture(points: np.ndarray, data: np.ndarray | None = None, title: str = "") -> Preview:
    """points (N, 2) as one picture, data (M, 2) behind them in the same window, which is the data's where there is any.

    Of 18 lines, and of 6 to 30 in `sizes`.
    """
    window = window_of(points if data is None else data)
    away = int(len(points) - window.inside(points).sum())

    front = _placed(points, window)
    back = None if data is None else _placed(data[: BEHIND * MOST**2 // ROWS**2], window)

    def drawn(rows: int) -> Preview:
        behind = () if back is None else _lines(back[: BEHIND * rows**2 // ROWS**2], rows)
        note = f"{away} off it" if away else ""
        return Preview(title or f"{len(points):,} points", _lines(front, rows), note, behind)

    return replace(drawn(ROWS), sizes=tuple(drawn(rows) for rows in range(LEAST, MOST + 1)))


def statistics(points: np.ndarray) -> Preview:
    """What can be said of points (N, D) that are not in a plane."""
    rows = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    shown = ("mean", rows.mean(axis=0)), ("std", rows.std(axis=0))
    lines = [f"{name:<5}" + " ".join(f"{value:+.3f}" for value in values[:8]) for name, values in shown if len(rows)]
    width = max(map(len, lines), default=0)
    return Preview(f"{len(points):,} points", tuple(line.ljust(width) for line in (*lines, "")))


def _placed(points: np.ndarray, window: Window) -> np.ndarray:
    return window.place(points[window.inside(points)].astype(np.float64))


def _lines(placed: np.ndarray, rows: int) -> tuple[str, ...]:
    on = np.zeros((4 * rows, 4 * rows), bool)
    column, row = np.floor(placed * (4 * rows)).astype(int).T
    on[row, column] = True
    return braille_lines(on)
