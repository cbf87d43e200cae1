"""Features of sketches for evaluation. Does not import torch.

Changing any of them changes every metric. If you do, increase the number in `flowkit.sketch.evaluation.PROTOCOL`.
"""

from __future__ import annotations

import numpy as np

from flowkit.sketch.raster import bernstein, ink_grid, short_lines, touched_cells
from flowkit.sketch.strokes import continues, exists
from flowkit.sketch.svg_write import STROKE_WIDTH

NUM_POINTS = 128
BLURRED_SIZE, BLUR = 28, 1.0
CLASS_GRID = 14
_SEGMENTS = 16  # chords per stroke for measuring its length


def curve(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """x: (..., S, 8) strokes, t: (T,) in [0, 1] -> (..., S, T, 2) points on the cubics."""
    return np.einsum("tk,...kc->...tc", bernstein(t), x.reshape(*x.shape[:-1], 4, 2), optimize=True)


def ink_points(x: np.ndarray, num_points: int = NUM_POINTS) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N, num_points, 2): points at equal steps of length along all the ink of a sketch.

    Splitting or reversing a stroke changes only the offset of the points along the ink.
    """
    lines, owner, sketch = short_lines(x, 0.02)
    row = sketch[owner]
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=-1) + 1e-9  # so that a sketch of mere dots has points too
    end = np.cumsum(length)
    last = np.searchsorted(row, np.arange(len(x)), "right") - 1
    steps = (np.arange(num_points) + 0.5) / num_points
    points = np.zeros((len(x), num_points, 2))
    before = 0.0
    for number in range(len(x)):
        if last[number] < 0 or row[last[number]] != number:
            continue  # nothing was drawn
        total = end[last[number]]
        at = before + steps * (total - before)
        before = total
        piece = np.searchsorted(end, at)
        share = (1.0 - (end[piece] - at) / length[piece])[:, None]
        points[number] = lines[piece, 0] + share * (lines[piece, 1] - lines[piece, 0])
    return points


STROKE_STATISTICS = (
    "length", "chord", "straightness", "turning", "center x", "center y", "|dx|", "|dy|", "slant",
    "gap to the next stroke", "distance to the nearest other end",
)  # fmt: skip
STROKE_FEATURES = tuple(f"{how} {what}" for how in ("mean", "deviation of") for what in STROKE_STATISTICS)


def pen_lines(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pen strokes of sketches x (N, S, 8 or 10) as 17 points each, evenly spaced by length.

    Returns the points (K, 17, 2) float64, and the sketch of each pen stroke (K,). In rows without pen strokes, a cubic that
    starts within a line width of the end of the one before continues it, so splitting a line does not change the result.
    """
    lines, owner, sketch = short_lines(x, 0.02)
    x = np.asarray(x)
    there = exists(x) & np.isfinite(x[..., :8]).all(axis=-1)
    if x.shape[-1] > 8:
        joined = continues(x)[there]
    else:
        curves = x[there]
        joined = np.zeros(len(curves), bool)
        joined[1:] = (np.linalg.norm(curves[1:, :2] - curves[:-1, 6:8], axis=1) < STROKE_WIDTH) & (np.diff(sketch) == 0)
    pen = np.cumsum(~joined) - 1
    count = int(pen[-1]) + 1 if len(pen) else 0
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    of = pen[owner]
    total = np.bincount(of, length, count)
    # One axis of lengths for all: pen stroke k takes (base_k, base_k + total_k), with a gap before the next one.
    base = np.cumsum(total + 1.0) - total
    end = np.cumsum(length) + (of + 1.0)
    at = base[:, None] + total[:, None] * (np.arange(_SEGMENTS + 1) / _SEGMENTS)
    piece = np.searchsorted(end, at.clip(max=np.nextafter((base + total), -np.inf)[:, None]))
    first, last = (np.searchsorted(of, np.arange(count), side)[:, None] for side in ("left", "right"))
    piece = piece.clip(first, last - 1)  # rounding must not carry a point over into the next stroke
    share = (1 - (end[piece] - at) / np.maximum(length[piece], 1e-12)).clip(0, 1)
    points = lines[piece, 0] + share[..., None] * (lines[piece, 1] - lines[piece, 0])
    return points, sketch[np.flatnonzero(~joined)]


def stroke_features(x: np.ndarray, rows_at_once: int = 512) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N, 22) float64: mean and standard deviation over the pen strokes of STROKE_STATISTICS.

    Lengths and positions are in canvas units. Straightness is chord / length. Turning is the total angle in units of pi. Slant
    is dx * dy / chord². All have a similar scale, so none has to be estimated from data. Reversing a stroke changes only the
    gaps.
    """
    parts = [_stroke_features(x[i : i + rows_at_once]) for i in range(0, len(x), rows_at_once)]
    return np.concatenate(parts) if parts else np.empty((0, len(STROKE_FEATURES)))


def _stroke_features(x: np.ndarray) -> np.ndarray:
    points, sketch = pen_lines(x)
    steps = np.diff(points, axis=1)
    length = np.linalg.norm(steps, axis=-1).sum(axis=-1)
    start, end = points[:, 0], points[:, -1]
    chord = end - start
    chord_length = np.linalg.norm(chord, axis=-1)
    center = points.mean(axis=1)
    a, b = steps[:, :-1], steps[:, 1:]
    turning = np.abs(np.arctan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1))).sum(axis=-1) / np.pi
    follows = np.diff(sketch, append=-1) == 0
    gap = np.zeros_like(length)
    gap[:-1][follows[:-1]] = np.linalg.norm(start[1:] - end[:-1], axis=-1)[follows[:-1]]
    statistics = np.stack(
        [
            length,
            chord_length,
            chord_length / np.maximum(length, 1e-6),
            turning,
            *center.T,
            *np.abs(chord).T,
            chord[:, 0] * chord[:, 1] / np.maximum(chord_length**2, 1e-6),
            gap,
            _nearest_other_end(start, end, sketch),
        ],
        axis=-1,
    )
    count = np.bincount(sketch, minlength=len(x))[:, None]
    sums = lambda values: np.stack([np.bincount(sketch, column, len(x)) for column in values.T], axis=1)  # noqa: E731
    mean = sums(statistics) / np.maximum(count, 1)
    deviation = np.sqrt(sums((statistics - mean[sketch]) ** 2) / np.maximum(count, 1))
    return np.concatenate([mean, deviation], axis=1)


def _nearest_other_end(start: np.ndarray, end: np.ndarray, sketch: np.ndarray) -> np.ndarray:
    """start, end (K, 2) -> (K,): the distance from either end of a pen stroke to the nearest end of another one, or 0."""
    nearest = np.zeros(len(start))
    for own in np.split(np.arange(len(sketch)), np.flatnonzero(np.diff(sketch)) + 1):
        if len(own) < 2:
            continue
        ends = np.stack([start[own], end[own]], axis=1)  # (k, 2, 2)
        gaps = np.linalg.norm(ends[:, None, :, None] - ends[None, :, None, :], axis=-1).min(axis=(2, 3))
        np.fill_diagonal(gaps, np.inf)
        nearest[own] = gaps.min(axis=1)
    return nearest


PIECES_GRID = 64
COUNTS = {
    "cubics": ("cubics", "Bezier curves"),
    "pen_strokes": ("pen strokes", "chains of cubics"),
    "ink_length": ("length of ink", "in canvas units, where the canvas is 2 wide"),
    "pieces": ("pieces of ink", f"connected cells of a {PIECES_GRID} x {PIECES_GRID} grid, also by their corners"),
}


def counts(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N, 4) float64: COUNTS of each sketch."""
    from scipy.ndimage import label

    lines, owner, sketch = short_lines(x, 0.02)
    length = np.bincount(sketch[owner], np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1), len(x))
    pen = np.bincount(pen_lines(x)[1], minlength=len(x))
    pieces = [label(cells, np.ones((3, 3)))[1] for cells in touched_cells(x, PIECES_GRID)]  # pyright: ignore[reportIndexIssue]
    return np.stack([np.bincount(sketch, minlength=len(x)), pen, length, pieces], axis=1).astype(np.float64)


def class_grid(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N, 196) float32, 0 or 1: the cells of a 14 x 14 grid that ink touches."""
    return touched_cells(x, CLASS_GRID).reshape(len(x), -1).astype(np.float32)


def blurred_grid(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8) -> (N, 784) float32: a 28 x 28 ink grid, blurred by a Gaussian of one cell."""
    from scipy.ndimage import gaussian_filter

    grid = ink_grid(np.ascontiguousarray(x), size=BLURRED_SIZE).reshape(len(x), BLURRED_SIZE, BLURRED_SIZE)
    return gaussian_filter(grid, sigma=(0.0, BLUR, BLUR), mode="constant").reshape(len(x), -1)
