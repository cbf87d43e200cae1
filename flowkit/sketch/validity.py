"""Geometric validity of sketches: strokes off the canvas, degenerate strokes and duplicate strokes."""

from __future__ import annotations

import numpy as np

from flowkit.sketch.features import curve
from flowkit.sketch.strokes import exists

TOLERANCE = 0.01  # canvas units by which a stroke on the canvas may exceed [-1, 1]
DEGENERATE = DUPLICATE = 0.05  # canvas units; DEGENERATE is also the threshold of the degenerate loss


def on_canvas(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N,) the fraction of cubics that stay on the canvas, give or take TOLERANCE."""
    reach = np.abs(curve(x[..., :8], np.linspace(0.0, 1.0, 17))).max(axis=(2, 3))
    return _share(reach <= 1.0 + TOLERANCE, x)


def degenerate(x: np.ndarray) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N,) the fraction of cubics no two of whose control points are DEGENERATE apart."""
    control = x[..., :8].reshape(*x.shape[:2], 4, 2)
    largest = np.linalg.norm(control[:, :, :, None] - control[:, :, None], axis=-1).max(axis=(2, 3))
    return _share(largest < DEGENERATE, x)


def duplicate(x: np.ndarray, rows_at_once: int = 128) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N,) the fraction of cubics that have a twin in the sketch.

    Two strokes are duplicates if all corresponding control points lie within DUPLICATE, in either drawing direction.
    """
    strokes = np.arange(x.shape[1])
    shares = [np.empty(0)]
    for start in range(0, len(x), rows_at_once):
        part = x[start : start + rows_at_once]
        control, there = part[..., :8].reshape(-1, len(strokes), 4, 2), exists(part)
        twin = np.zeros((len(control), len(strokes), len(strokes)), bool)
        for other in (control, control[:, :, ::-1]):
            twin |= np.square(control[:, :, None] - other[:, None]).sum(-1).max(axis=3) < DUPLICATE**2
        twin[:, strokes, strokes] = False
        shares.append(_share((twin & there[:, None]).any(axis=2), part))
    return np.concatenate(shares)


def _share(true: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The fraction (N,) of the cubics that exist for which `true` (N, S)."""
    there = exists(x)
    return (true & there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
