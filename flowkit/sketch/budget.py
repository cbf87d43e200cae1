"""Convert any number of cubics to exactly S: split losslessly if there are fewer, fit if there are more."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flowkit.errors import Unreadable
from flowkit.sketch import bezier
from flowkit.sketch.strokes import as_row

_DENSE = 16  # points per cubic of a polyline approximation
_SAMPLES = 33  # points per piece for fitting
_FINE = 0.008  # canvas units between the points at which errors are measured
_TOUCHING = 1e-6  # canvas units
# Larger drawings would take minutes to fit. A page of handwriting has a tenth of either limit.
MAX_FITTED = 10_000  # cubics
MAX_INK = 200.0  # canvas units: 100 lines across the canvas


@dataclass(frozen=True)
class Budgeted:
    x: np.ndarray  # (S, 8 or 10) float32, in drawing order
    fitted: bool  # False: the same curves, split or as they were
    error: float = 0.0  # canvas units: Hausdorff distance to the original stroke, the largest of all; 0 unless fitted
    dots: int = 0  # strokes without length that were dropped


def to_size(
    strokes: Sequence[np.ndarray], size: int, *, fit: bool = True, exactly: bool = False, tolerance: float = 0.0
) -> Budgeted:
    """Return pen strokes, each a chain of cubics (n, 8) in canvas units, as one row of `size` cubics.

    By default the row (size, 10) has at most `size` cubics and keeps the pen strokes. With `exactly` it is (size, 8): if there
    are fewer, the longest are split, and the curve stays the same. If there are more, `fit` merges neighboring cubics of a
    stroke into fitted ones, the cheapest first; without `fit` the sketch is refused. tolerance: merge further as long as
    the error stays below, in canvas units.

    Raises Unreadable if there is nothing to draw, or more than `size` strokes or cubics cannot be reduced.
    """
    strokes = [stroke for stroke in strokes if len(stroke)]
    drawn = [kept for stroke in strokes if len(kept := _without_points(stroke))]
    dots = len(strokes) - len(drawn)
    if not drawn:
        raise Unreadable("has no strokes")
    count = sum(map(len, drawn))
    packed = lambda drawn: (  # noqa: E731
        _split_longest(np.concatenate(drawn), size).astype(np.float32) if exactly else as_row(drawn, size)
    )
    if count <= size and not tolerance:
        return Budgeted(packed(drawn), False, dots=dots)
    if count > size and not fit:
        raise Unreadable(f"has more than {size} cubics", str(count))
    if count > size:
        drawn = _joined(drawn)
    if len(drawn) > size:
        raise Unreadable(f"has more than {size} separate strokes", str(len(drawn)))
    legs = np.diff(np.concatenate(drawn).reshape(-1, 4, 2), axis=1)
    ink = float(np.linalg.norm(legs, axis=-1).sum())
    if count > MAX_FITTED or not ink <= MAX_INK:
        raise Unreadable("is too complex to be fitted", f"{count:,} cubics, {ink:.3g} canvas units of ink")
    merged, error = _merge(drawn, size, tolerance)
    return Budgeted(packed(merged), sum(map(len, merged)) < count, error, dots)


def _without_points(stroke: np.ndarray) -> np.ndarray:
    """Drop cubics of length 0. They draw nothing, and a model would learn to produce degenerate strokes."""
    reach = np.abs(stroke.reshape(-1, 4, 2) - stroke[:, None, :2]).max(axis=(1, 2))
    return stroke[reach > _TOUCHING]


def _joined(strokes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Join each stroke to the previous one if it starts at its end. Some programs write every segment as a path."""
    out: list[np.ndarray] = []
    for stroke in strokes:
        if out and np.abs(out[-1][-1, 6:] - stroke[0, :2]).max() <= _TOUCHING:
            out[-1] = np.concatenate([out[-1], stroke])
        else:
            out.append(stroke)
    return out


def _split_longest(cubics: np.ndarray, size: int) -> np.ndarray:
    """Split cubics (n, 8), n < size, to (size, 8) in the same order. The cubic with the longest pieces is split next."""
    lengths = bezier.arc_length(cubics)
    pieces = [1] * len(cubics)
    longest = [(-length, i) for i, length in enumerate(lengths.tolist())]
    heapq.heapify(longest)
    for _ in range(size - len(cubics)):
        _, i = longest[0]
        pieces[i] += 1
        heapq.heapreplace(longest, (-lengths[i] / pieces[i], i))
    parts = [bezier.split_evenly(c, n) if n > 1 else c[None] for c, n in zip(cubics, pieces, strict=True)]
    return np.concatenate(parts)


class _Ink:
    """All strokes as one dense polyline, parametrized by arc length. Strokes are separated by a gap of 1 on that axis."""

    def __init__(self, strokes: Sequence[np.ndarray]) -> None:
        t = np.linspace(0, 1, _DENSE + 1)
        self.points = np.empty((sum(len(s) * _DENSE + 1 for s in strokes), 2))
        self.joints: list[np.ndarray] = []  # per stroke: indices (n + 1,) into `points` at which its cubics meet
        at = 0
        for stroke in strokes:
            dense = bezier.points(stroke, t)
            stop = at + len(stroke) * _DENSE
            self.points[at:stop] = dense[:, :-1].reshape(-1, 2)
            self.points[stop] = dense[-1, -1]
            self.joints.append(np.arange(at, stop + 1, _DENSE))
            at = stop + 1
        step = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        step[[joints[-1] for joints in self.joints[:-1]]] = 1.0
        self.along = np.concatenate([[0.0], np.cumsum(step)])

    def samples(self, pieces: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return points (B, M, 2) spaced evenly along each piece. A piece is a pair of start and stop index."""
        begin, end = self.along[np.array(pieces)].T
        s = begin[:, None] + (end - begin)[:, None] * np.linspace(0, 1, _SAMPLES)
        # Rounding must not move the last sample across the gap into the next stroke.
        return self.at(np.minimum(s, end[:, None]))

    def at(self, s: np.ndarray) -> np.ndarray:
        """Return the points (..., 2) at arc lengths s (...)."""
        return np.stack([np.interp(s, self.along, self.points[:, axis]) for axis in (0, 1)], axis=-1)

    def error(self, piece: tuple[int, int], cubic: np.ndarray) -> float:
        """Return the Hausdorff distance between a piece and its fitted cubic, accurate to half of _FINE."""
        vertices = self.along[piece[0] : piece[1] + 1]
        old = self.at(np.union1d(vertices, np.arange(vertices[0], vertices[-1], _FINE)))
        reach = np.linalg.norm(np.diff(cubic.reshape(4, 2), axis=0), axis=1).sum()
        new = bezier.points(cubic, np.linspace(0, 1, 32 + int(min(reach, MAX_INK) / _FINE)))
        return max(bezier.gap(old, new), bezier.gap(new, old))


def _merge(strokes: Sequence[np.ndarray], size: int, tolerance: float = 0.0) -> tuple[list[np.ndarray], float]:
    """Return chains of at most `size` cubics in all, and the error. The cheapest neighbors are merged first.

    Merging goes on as long as the next one costs less than `tolerance`.
    """
    ink = _Ink(strokes)
    pieces = [pair for joints in ink.joints for pair in pairwise(joints.tolist())]
    cubics = dict(zip(pieces, np.concatenate(strokes), strict=True))  # by start and stop index
    costs: dict[tuple[int, int], float] = {}
    untouched = set(pieces)
    while len(pieces) > size or tolerance > 0:
        left = [i for i in range(len(pieces) - 1) if pieces[i][1] == pieces[i + 1][0]]
        merged = [(pieces[i][0], pieces[i + 1][1]) for i in left]
        if new := [piece for piece in merged if piece not in costs]:
            fits, errors = bezier.fit(ink.samples(new))
            cubics.update(zip(new, fits, strict=True))
            costs.update(zip(new, errors.tolist(), strict=True))
        # Half of what is still to go in one round, for speed; the last and dearest merges are chosen one by one.
        prices = [costs[piece] for piece in merged]
        limit, cheap = (len(pieces) - size + 1) // 2, sum(price < tolerance for price in prices)
        if max(limit, cheap) < 1:
            break
        chosen = _cheapest(left, prices, limit, max(limit, (cheap + 1) // 2), tolerance)
        for k in sorted(chosen, reverse=True):
            pieces[left[k] : left[k] + 2] = [merged[k]]
    if fitted := [piece for piece in pieces if piece not in untouched]:
        fits, _ = bezier.fit(ink.samples(fitted), iterations=20)  # final fits get more iterations
        cubics.update(zip(fitted, fits, strict=True))
    error = max((ink.error(piece, cubics[piece]) for piece in fitted), default=0.0)
    starts = [i for i in range(1, len(pieces)) if pieces[i - 1][1] != pieces[i][0]]
    return np.split(np.stack([cubics[piece] for piece in pieces]), starts), error


def _cheapest(left: list[int], costs: list[float], least: int, most: int, tolerance: float) -> list[int]:
    """Return up to `most` positions in `left`, cheapest first, such that no two share a piece.

    Beyond the first `least`, all cost less than `tolerance`.
    """
    taken: set[int] = set()
    chosen: list[int] = []
    for k in np.argsort(costs, kind="stable").tolist():
        i = left[k]
        if len(chosen) >= least and costs[k] >= tolerance:
            break
        if i in taken or i + 1 in taken:
            continue
        taken.update((i, i + 1))
        chosen.append(k)
        if len(chosen) == most:
            break
    return chosen
