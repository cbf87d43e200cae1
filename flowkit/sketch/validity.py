"""Geometric validity of sketches: strokes off the canvas, degenerate strokes and duplicate strokes."""

from __future__ import annotations

import numpy as np

from flowkit.sketch.features import curve

TOLERANCE = 0.01  # canvas units by which a stroke on the canvas may exceed [-1, 1]
DEGENERATE = DUPLICATE = 0.05  # canvas units; DEGENERATE is also the threshold of the degenerate loss


def on_canvas(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8) -> (N,) the fraction of strokes that stay on the canvas, within TOLERANCE."""
    reach = np.abs(curve(x, np.linspace(0.0, 1.0, 17))).max(axis=(2, 3))
    return (reach <= 1.0 + TOLERANCE).mean(axis=1)


def degenerate(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8) -> (N,) the fraction of strokes whose control points all lie within DEGENERATE of each other."""
    control = x.reshape(*x.shape[:2], 4, 2)
    largest = np.linalg.norm(control[:, :, :, None] - control[:, :, None], axis=-1).max(axis=(2, 3))
    return (largest < DEGENERATE).mean(axis=1)


def duplicate(x: np.ndarray, rows_at_once: int = 128) -> np.ndarray:
    """x: (N, S, 8) -> (N,) the fraction of strokes that have a duplicate in the sketch.

    Two strokes are duplicates if all corresponding control points lie within DUPLICATE, in either drawing direction.
    """
    strokes = np.arange(x.shape[1])
    shares = [np.empty(0)]
    for start in range(0, len(x), rows_at_once):
        control = x[start : start + rows_at_once].reshape(-1, len(strokes), 4, 2)
        twin = np.zeros((len(control), len(strokes), len(strokes)), bool)
        for other in (control, control[:, :, ::-1]):
            twin |= np.square(control[:, :, None] - other[:, None]).sum(-1).max(axis=3) < DUPLICATE**2
        twin[:, strokes, strokes] = False
        shares.append(twin.any(axis=2).mean(axis=1))
    return np.concatenate(shares)
