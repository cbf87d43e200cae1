"""Features of sketches for evaluation. Does not import torch.

Changing any of them changes every metric. If you do, increase the number in `flowkit.sketch.evaluation.PROTOCOL`.
"""

from __future__ import annotations

import numpy as np

from flowkit.sketch.raster import bernstein, ink_grid

NUM_POINTS = 128
BLURRED_SIZE, BLUR = 28, 1.0
CLASS_GRID = 14
_SEGMENTS = 16  # chords per stroke for measuring its length


def curve(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """x: (..., S, 8) strokes, t: (T,) in [0, 1] -> (..., S, T, 2) points on the cubics."""
    return np.einsum("tk,...kc->...tc", bernstein(t), x.reshape(*x.shape[:-1], 4, 2), optimize=True)


def ink_points(x: np.ndarray, num_points: int = NUM_POINTS) -> np.ndarray:
    """x: (N, S, 8) -> (N, num_points, 2): points evenly spaced by length along all the ink of a sketch.

    Splitting or reversing a stroke changes only the offset of the points along the ink.
    """
    polyline = curve(np.asarray(x, np.float64), np.linspace(0.0, 1.0, _SEGMENTS + 1))  # (N, S, T + 1, 2)
    starts, chords = polyline[:, :, :-1], np.diff(polyline, axis=2)
    starts, chords = (a.reshape(len(x), -1, 2) for a in (starts, chords))
    length = np.linalg.norm(chords, axis=-1) + 1e-9  # avoids division by zero in a sketch that consists of dots
    end = np.cumsum(length, axis=1)
    steps = (np.arange(num_points) + 0.5) / num_points
    points = np.empty((len(x), num_points, 2))
    for row in range(len(x)):
        at = steps * end[row, -1]
        chord = np.searchsorted(end[row], at)
        share = 1.0 - (end[row, chord] - at) / length[row, chord]
        points[row] = starts[row, chord] + share[:, None] * chords[row, chord]
    return points


STROKE_STATISTICS = (
    "length", "chord", "straightness", "turning", "center x", "center y", "|dx|", "|dy|", "slant",
    "gap to the next stroke", "distance to the nearest other end",
)  # fmt: skip
STROKE_FEATURES = tuple(f"{how} {what}" for how in ("mean", "deviation of") for what in STROKE_STATISTICS)


def stroke_features(x: np.ndarray, rows_at_once: int = 512) -> np.ndarray:
    """x: (N, S, 8) -> (N, 22) float64: mean and standard deviation over the strokes of STROKE_STATISTICS.

    Lengths and positions are in canvas units. Straightness is chord / length. Turning is the total angle of the control
    polygon in units of pi. Slant is dx * dy / chord². All have a similar scale, so none has to be estimated from data.
    Reversing a stroke changes only the gaps.
    """
    parts = [_stroke_features(np.asarray(x[i : i + rows_at_once], np.float64)) for i in range(0, len(x), rows_at_once)]
    return np.concatenate(parts) if parts else np.empty((0, len(STROKE_FEATURES)))


def _stroke_features(x: np.ndarray) -> np.ndarray:
    control = x.reshape(*x.shape[:2], 4, 2)
    polyline = curve(x, np.linspace(0.0, 1.0, _SEGMENTS + 1))
    length = np.linalg.norm(np.diff(polyline, axis=2), axis=-1).sum(axis=-1)
    start, end = control[:, :, 0], control[:, :, 3]
    chord = end - start
    chord_length = np.linalg.norm(chord, axis=-1)
    center = polyline.mean(axis=2)
    gap = np.zeros_like(length)
    gap[:, :-1] = np.linalg.norm(start[:, 1:] - end[:, :-1], axis=-1)
    statistics = np.stack(
        [
            length,
            chord_length,
            chord_length / np.maximum(length, 1e-6),
            _turning(control),
            center[..., 0],
            center[..., 1],
            np.abs(chord[..., 0]),
            np.abs(chord[..., 1]),
            chord[..., 0] * chord[..., 1] / np.maximum(chord_length**2, 1e-6),
            gap,
            _nearest_other_end(start, end),
        ],
        axis=-1,
    )
    return np.concatenate([statistics.mean(axis=1), statistics.std(axis=1)], axis=-1)


def _turning(control: np.ndarray) -> np.ndarray:
    legs = np.diff(control, axis=2)  # (N, S, 3, 2)
    a, b = legs[:, :, :-1], legs[:, :, 1:]
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.abs(np.arctan2(cross, (a * b).sum(-1))).sum(axis=-1) / np.pi


def _nearest_other_end(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N, S, 2) twice -> (N, S): the distance from either end of a stroke to the nearest end of another stroke."""
    strokes = start.shape[1]
    if strokes < 2:
        return np.zeros(start.shape[:2])
    ends = np.stack([start, end], axis=2)  # (N, S, 2, 2)
    gaps = np.linalg.norm(ends[:, :, None, :, None] - ends[:, None, :, None, :], axis=-1).min(axis=(3, 4))
    gaps[:, np.arange(strokes), np.arange(strokes)] = np.inf
    return gaps.min(axis=2)


def class_grid(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8) -> (N, 196) float32, 0 or 1: the cells of a 14 x 14 grid that ink touches, at 10 points per stroke."""
    points = curve(np.asarray(x, np.float32), np.linspace(0.0, 1.0, 10)).reshape(len(x), -1, 2)
    cell = np.floor((points + 1) * (CLASS_GRID / 2))
    row, point = np.nonzero(((cell >= 0) & (cell < CLASS_GRID)).all(axis=-1))
    column, line = cell[row, point].astype(np.int64).T
    grid = np.zeros((len(x), CLASS_GRID**2), np.float32)
    grid[row, line * CLASS_GRID + column] = 1.0
    return grid


def blurred_grid(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8) -> (N, 784) float32: a 28 x 28 ink grid, blurred by a Gaussian of one cell."""
    from scipy.ndimage import gaussian_filter

    grid = ink_grid(np.ascontiguousarray(x), size=BLURRED_SIZE).reshape(len(x), BLURRED_SIZE, BLURRED_SIZE)
    return gaussian_filter(grid, sigma=(0.0, BLUR, BLUR), mode="constant").reshape(len(x), -1)
