"""A sketch as pen strokes: which of its cubics exist, and which continue the one before.

A row is (S, 8), where each cubic is a stroke of its own, or (S, 10). The latter has two signs after the 8 coordinates, 1 for
yes and -1 for no: the cubic exists, and it continues the cubic before it. Cubics that exist come first. The others are zeros
with both signs -1. A pen stroke is a chain of cubics, each of which starts where the one before ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXISTS, CONTINUES = 8, 9  # where the signs are in a row


def exists(x: np.ndarray) -> np.ndarray:
    """x: (..., S, 8 or 10) -> (..., S) bool."""
    return x[..., EXISTS] > 0 if x.shape[-1] > EXISTS else np.ones(x.shape[:-1], bool)


def continues(x: np.ndarray) -> np.ndarray:
    """x: (..., S, 8 or 10) -> (..., S) bool: the cubics that exist and continue the one before."""
    if x.shape[-1] <= CONTINUES:
        return np.zeros(x.shape[:-1], bool)
    joined = exists(x) & (x[..., CONTINUES] > 0)
    joined[..., 0] = False
    joined[..., 1:] &= exists(x)[..., :-1]
    return joined


def cubics(sketch: np.ndarray) -> np.ndarray:
    """sketch: (S, 8 or 10) -> (n, 8), the cubics that exist, in drawing order."""
    return sketch[exists(sketch)][:, :8]


def pen_strokes(sketch: np.ndarray) -> list[np.ndarray]:
    """sketch: (S, 8 or 10) -> the pen strokes (n, 8) in drawing order."""
    there = exists(sketch)
    starts = np.flatnonzero(~continues(sketch)[there])[1:]
    return np.split(sketch[there][:, :8], starts) if there.any() else []


def as_row(strokes: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return pen strokes (n, 8), of at most `size` cubics in all, as a row (size, 10) float32."""
    row = np.zeros((size, 10), np.float32)
    row[:, EXISTS:] = -1
    at = 0
    for stroke in strokes:
        row[at : at + len(stroke), :8] = stroke
        row[at : at + len(stroke), EXISTS] = 1
        row[at + 1 : at + len(stroke), CONTINUES] = 1
        at += len(stroke)
    return row


def tidy(x: np.ndarray, fixed: np.ndarray | None = None) -> np.ndarray:
    """Return sampled rows x (N, S, 10) float32 as a data set has them: signs of -1 and 1, and pen strokes without gaps.

    Where a cubic continues another one, both ends move to their middle, with the control points next to them. Cubics that are
    `fixed` (N, S) bool do not move. A row without any cubic keeps the most likely one.
    """
    x = np.array(x, np.float32)
    x[np.arange(len(x)), x[..., EXISTS].argmax(axis=1), EXISTS] = 1
    there, joined = exists(x), continues(x)
    order = np.argsort(~there, axis=1, kind="stable")  # those that exist first
    x = np.take_along_axis(x, order[..., None], axis=1)
    there, joined = np.take_along_axis(there, order, axis=1), np.take_along_axis(joined, order, axis=1)
    still = np.zeros_like(there) if fixed is None else np.take_along_axis(fixed, order, axis=1)
    x[..., EXISTS], x[..., CONTINUES] = np.where(there, 1, -1), np.where(joined, 1, -1)
    x[~there, :EXISTS] = 0
    # How far the start of each cubic moves toward the end of the one before: half the gap, unless one of them is fixed.
    share = np.where(still[:, 1:], 0.0, np.where(still[:, :-1], 1.0, 0.5)) * joined[:, 1:]
    gap = x[:, :-1, 6:8] - x[:, 1:, 0:2]
    starts = (gap * share[..., None]).astype(np.float32)
    ends = ((starts - gap) * joined[:, 1:, None] * ~still[:, :-1, None]).astype(np.float32)
    x[:, 1:, 0:2] += starts
    x[:, 1:, 2:4] += starts
    x[:, :-1, 4:6] += ends
    x[:, :-1, 6:8] += ends
    # Exactly, in spite of rounding.
    met = (joined[:, 1:] & ~still[:, 1:])[..., None]
    x[:, 1:, 0:2] = np.where(met, x[:, :-1, 6:8], x[:, 1:, 0:2])
    met = (joined[:, 1:] & still[:, 1:] & ~still[:, :-1])[..., None]
    x[:, :-1, 6:8] = np.where(met, x[:, 1:, 0:2], x[:, :-1, 6:8])
    return x
