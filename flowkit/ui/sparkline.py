"""Small graphs made of characters: a sparkline of block elements, and a braille chart with 2 x 4 dots per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
STEEP = 0.1  # fraction of the steps in which a loss may fall steeply
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of a dot by column, then row, in a braille cell


Points = list[tuple[float, float]]  # (step, value)


@dataclass
class History:
    """A curve over the whole run in bounded memory: when it is full, neighbors are averaged.

    `points` may be read from another thread at any time: it grows by whole points and is replaced as a whole.
    """

    limit: int = 512
    points: Points = field(default_factory=list)
    _stride: int = 1  # readings in one point
    _pending: Points = field(default_factory=list)

    def add(self, step: float, value: float) -> None:
        """Add a reading. One that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._pending.append((step, value))
        if len(self._pending) < self._stride:
            return
        self.points.append(_mean(self._pending))
        self._pending.clear()
        if len(self.points) >= self.limit:
            self.points = [_mean(pair) for pair in zip(self.points[::2], self.points[1::2], strict=False)]
            self._stride *= 2


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(step for step, _ in points) / len(points), sum(value for _, value in points) / len(points)


@dataclass(frozen=True)
class Scale:
    """Maps values to [0, 1]: logarithmic where all are positive, since losses fall fast and then slowly."""

    low: float
    high: float
    cut: bool  # whether the steep start of the curves lies above `high`, so that their ends can be read

    @classmethod
    def of(cls, points: Points) -> Scale | None:
        """Return the scale of all points, without the first tenth of the steps if that would take more than half of it."""
        if not points:
            return None
        values = [value for _, value in points]
        low, high = min(values), max(values)
        begins = max(step for step, _ in points) * STEEP
        late = max(value for step, value in points if step >= begins)
        warp = math.log if low > 0 else float
        cut = warp(late) - warp(low) < (warp(high) - warp(low)) / 2 and late > low
        return cls(low, late if cut else high, cut)

    def __call__(self, value: float) -> float:
        warp = math.log if self.low > 0 else float
        span = warp(self.high) - warp(self.low)
        return 0.5 if span < 1e-9 else min(1.0, max(0.0, (warp(value) - warp(self.low)) / span))


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` block characters. More values than that are averaged in equal groups."""
    if not values or width < 1:
        return ""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    scale = Scale.of(list(enumerate(values)))
    assert scale
    return "".join(BLOCKS[min(7, int(8 * scale(value)))] for value in values)


def bars(values: Sequence[float]) -> str:
    """Return one block per value, as high as its share of the largest value."""
    finite = [value for value in values if math.isfinite(value)]
    top = max(finite, default=0.0)
    if top <= 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[max(0, min(7, round(8 * v / top) - 1))] if math.isfinite(v) else "?" for v in values)


def chart(series: Sequence[tuple[Points, str]], last_step: float, width: int, rows: int) -> list[Text]:
    """Return `rows` lines of `width` cells. `series` are curves with their styles, later ones drawn over earlier ones.

    Steps 0 to `last_step` across, values up, all on one `Scale`.
    """
    scale = Scale.of([point for points, _ in series for point in points])
    if scale is None:
        return [Text(" " * width) for _ in range(rows)]
    bits = [[0] * width for _ in range(rows)]
    styles = [[""] * width for _ in range(rows)]

    def dot(x: int, y: int, style: str) -> None:
        bits[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        styles[y // 4][x // 2] = style

    for points, style in series:
        columns: dict[int, list[float]] = {}
        for step, value in points:
            x = round((2 * width - 1) * min(1.0, step / max(1.0, last_step)))
            columns.setdefault(x, []).append(value)
        before: tuple[int, int] | None = None
        for x, found in sorted(columns.items()):
            y = round((4 * rows - 1) * (1 - scale(sum(found) / len(found))))
            for px, py in [(x, y)] if before is None else _segment(*before, x, y):
                dot(px, py, style)
            before = (x, y)
    lines = []
    for row_bits, row_styles in zip(bits, styles, strict=True):
        cells = [chr(0x2800 + cell) if cell else " " for cell in row_bits]
        runs = groupby(zip(cells, row_styles, strict=True), key=lambda pair: pair[1])
        lines.append(Text.assemble(*(("".join(cell for cell, _ in run), style) for style, run in runs)))
    return lines


def _segment(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count)) for i in range(1, count + 1)]
