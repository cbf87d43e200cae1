"""Draws a batch of variations of one doodle. Numbers are batches, points are complex numbers x + iy.

Paths are arrays (B, k, 4): the control points of k cubics. B is 1 if nothing varies. y points down, so angles (in
degrees) increase clockwise: 0 is right, 90 down, -90 up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Batch = np.ndarray | float  # (B,) numbers, or one number for all
Point = np.ndarray | complex  # (B,) points, or one point for all


def bezier(*points: Point) -> np.ndarray:
    """Return the path with these 1 + 3k control points."""
    p = np.stack(np.broadcast_arrays(*[np.atleast_1d(np.asarray(point, complex)) for point in points]), axis=-1)
    return np.stack([p[:, i : i + 4] for i in range(0, p.shape[1] - 1, 3)], axis=1)


def line(*points: Point) -> np.ndarray:
    """Return straight lines from point to point."""
    return join(*[bow(a, b, 0.0) for a, b in pairwise(points)])


def bow(a: Point, b: Point, bulge: Batch) -> np.ndarray:
    """Return an arc from a to b. bulge: height in chord lengths, to the right of the direction of travel."""
    out = 1j * (b - a) * bulge * 4 / 3
    return bezier(a, a + (b - a) * 0.25 + out, b - (b - a) * 0.25 + out, b)


def wave(a: Point, b: Point, swing: Batch) -> np.ndarray:
    """Return an S-curve from a to b, first to the right of the direction of travel by about `swing` chord lengths."""
    out = 1j * (b - a) * swing * 3
    return bezier(a, a + (b - a) / 3 + out, b - (b - a) / 3 - out, b)


def curve(*points: Point, closed: bool = False) -> np.ndarray:
    """Return a smooth path through all points (Catmull-Rom)."""
    p = np.stack(np.broadcast_arrays(*[np.atleast_1d(np.asarray(point, complex)) for point in points]), axis=-1)
    if closed:
        p = np.concatenate([p[:, -1:], p, p[:, :2]], axis=1)
    else:
        p = np.concatenate([2 * p[:, :1] - p[:, 1:2], p, 2 * p[:, -1:] - p[:, -2:-1]], axis=1)
    before, a, b, after = p[:, :-3], p[:, 1:-2], p[:, 2:-1], p[:, 3:]
    return np.stack([a, a + (b - before) / 6, b - (after - a) / 6, b], axis=-1)


def arc(center: Point, rx: Batch, ry: Batch, start: Batch, stop: Batch, pieces: int, tilt: Batch = 0.0) -> np.ndarray:
    """Return an elliptical arc from angle `start` to `stop`, rotated by `tilt` (all in degrees)."""
    start, step = np.radians(start), np.radians(np.subtract(stop, start)) / pieces
    handle = 4 / 3 * np.tan(step / 4)
    points: list[Point] = []
    for i in range(pieces + 1):
        angle = start + i * step
        on = rx * np.cos(angle) + 1j * ry * np.sin(angle)
        along = (-rx * np.sin(angle) + 1j * ry * np.cos(angle)) * handle
        points += [on - along, on, on + along]
    turn = np.exp(1j * np.radians(tilt))
    return bezier(*[center + turn * point for point in points[1:-1]])


def ellipse(
    center: Point, rx: Batch, ry: Batch, pieces: int = 4, start: Batch = -90.0, tilt: Batch = 0.0
) -> np.ndarray:
    return arc(center, rx, ry, start, np.add(start, 360.0), pieces, tilt)


def drop(center: Point, radius: Batch) -> np.ndarray:
    """Return a small teardrop with its tip up: one cubic that returns to its start."""
    top, side, low = center - 1j * radius * 1.1, radius * 3.4, radius * 2.9
    return bezier(top, top + side + 1j * low, top - side + 1j * low, top)


def dot(center: Point, radius: Batch) -> np.ndarray:
    """Return a dot: a loop so small that the line fills it."""
    return drop(center, radius * 0.5)


def box(left: Batch, top: Batch, right: Batch, bottom: Batch) -> np.ndarray:
    a, b, c, d = (
        np.add(x, 1j * np.asarray(y)) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))
    )
    return line(a, b, c, d, a)


def polar(center: Point, radius: Batch, angle: Batch) -> Point:
    return center + radius * np.exp(1j * np.radians(angle))


def join(*paths: np.ndarray) -> np.ndarray:
    """Join paths that meet end to start."""
    count = max(len(path) for path in paths)
    return np.concatenate([np.broadcast_to(path, (count, *path.shape[1:])) for path in paths], axis=1)


@dataclass
class Part:
    path: np.ndarray  # (B, k, 4)
    present: np.ndarray  # (B,) bool
    spare: int  # index of the part whose strokes are split to fill the slots of this one if it is absent


class Pen:
    """Draws `count` doodles of one class at once and keeps their parts in order."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self.rng, self.count = rng, count
        self.parts: list[Part] = []
        # How carefully each drawing is drawn.
        self.tremor = self.between(0.15, 1.0)
        self.haste = self.between(0.0, 1.0) * self.chance(0.6)

    def between(self, low: Batch, high: Batch) -> np.ndarray:
        """Return a uniform random number per drawing, (B,)."""
        return low + np.subtract(high, low) * self.rng.random(self.count)

    def chance(self, p: Batch) -> np.ndarray:
        """Return True with probability p per drawing, (B,)."""
        return self.rng.random(self.count) < p

    def choice(self, *values: float) -> np.ndarray:
        """Return one of `values` at random per drawing, (B,)."""
        return np.asarray(values)[self.rng.integers(len(values), size=self.count)]

    def draw(self, path: np.ndarray, when: np.ndarray | bool = True, spare: int = 0) -> int:
        """Add a part and return its number. when: (B,) whether it is present.

        spare: number of a part that is always present; its strokes fill the slots of this one if it is absent.
        """
        path = np.broadcast_to(path, (self.count, *path.shape[1:]))
        self.parts.append(Part(self._shake(path), np.broadcast_to(when, self.count), spare))
        return len(self.parts) - 1

    def _normal(self, k: int) -> np.ndarray:
        """Return (B, k) complex normal numbers with unit variance per coordinate, clipped to 2.5."""
        shape = (2, self.count, k)
        x, y = self.rng.standard_normal(shape).clip(-2.5, 2.5)
        return x + 1j * y

    def _shake(self, path: np.ndarray) -> np.ndarray:
        """Make a path look hand-drawn: move joints, bend lines, overshoot ends, leave closed shapes slightly open."""
        k = path.shape[1]
        steps = path[:, :, 3] - path[:, :, 0]
        # Small parts are perturbed less.
        reach = np.abs(path - path[:, :1, :1]).max(axis=(1, 2))[:, None]
        scale = self.tremor[:, None] * 0.011 * np.clip(reach / 0.4, 0.3, 1.0)
        joints = self._normal(k + 1) * scale
        closed = np.abs(path[:, -1, 3] - path[:, 0, 0]) < 1e-6
        joints[:, -1] = np.where(closed, joints[:, 0] + 0.7 * joints[:, -1], joints[:, -1])
        bend = (
            self._normal(2 * k).reshape(self.count, k, 2)
            * np.abs(steps)[:, :, None]
            * 0.016
            * self.tremor[:, None, None]
        )
        moved = path.astype(complex)
        moved[:, :, :2] += joints[:, :-1, None]
        moved[:, :, 2:] += joints[:, 1:, None]
        moved[:, :, 1:3] += bend
        # Overshoot along the tangent, at most a tenth of the last stroke.
        over = self.haste[:, None] * self.rng.random((self.count, 2)) * 0.035
        for end, inner, at in ((0, 1, 0), (3, 2, -1)):
            leg = moved[:, at, end] - moved[:, at, inner]
            limit = np.minimum(over[:, at], 0.1 * np.abs(steps[:, at]))
            moved[:, at, end] += leg / np.maximum(np.abs(leg), 1e-6) * limit
        return moved

    def strokes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the cubics (B, K, 4) of all parts, and whether each is present (B, K)."""
        present = [np.repeat(part.present[:, None], part.path.shape[1], axis=1) for part in self.parts]
        return np.concatenate([part.path for part in self.parts], axis=1), np.concatenate(present, axis=1)


@dataclass(frozen=True)
class Slots:
    """Assignment of cubics to the S slots of a sketch. It is the same for every drawing of a class.

    owner: (S,) the cubic of which a slot holds a piece. piece: (S,) index of the piece, among `pieces` (S,).
    host: (S,) the slot whose cubic this slot shares if its own is absent.
    """

    owner: np.ndarray
    piece: np.ndarray
    pieces: np.ndarray
    host: np.ndarray


def allot(parts: Sequence[Part], num_strokes: int) -> Slots:
    """Distribute `num_strokes` slots over the cubics of all parts. Cubics that are longer on average get more slots."""
    sizes = np.array([part.path.shape[1] for part in parts])
    length = np.concatenate([np.abs(np.diff(part.path, axis=2)).sum(axis=2).mean(axis=0) for part in parts])
    part_of = np.repeat(np.arange(len(parts)), sizes)
    always = np.array([part.present.all() for part in parts])[part_of]
    count = np.ones(len(length), int)
    for _ in range(num_strokes - len(length)):
        count[np.argmax(np.where(always, length, 0.5 * length) / count)] += 1
    owner = np.repeat(np.arange(len(length)), count)
    piece = np.arange(num_strokes) - np.repeat(np.cumsum(count) - count, count)
    # Every slot that can be empty has a fixed host: the slot of the spare part with the longest piece per guest.
    guests = np.zeros(num_strokes, int)
    host = np.arange(num_strokes)
    for slot in np.flatnonzero(~always[owner]):
        spare = parts[int(part_of[owner[slot]])].spare
        assert always[part_of == spare].all(), f"part {spare} is the spare of an optional part, so it must be present"
        burden = np.where(part_of[owner] == spare, (length / count)[owner] / (1 + guests), -1.0)
        host[slot] = np.argmax(burden)
        guests[host[slot]] += 1
    return Slots(owner, piece, count[owner], host)


def fill(slots: Slots, cubics: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the sketch (B, S, 4). A slot holds a piece of its own cubic, or of its host's if its own is absent.

    cubics: (B, K, 4) and present: (B, K), as returned by `Pen.strokes`.
    """
    here = present[:, slots.owner]  # (B, S)
    rank, count = np.zeros(here.shape, int), np.ones(here.shape, int)
    for slot in np.flatnonzero(slots.host != np.arange(len(slots.host))):
        host, away = slots.host[slot], ~here[:, slot]
        rank[away, slot] = count[away, host]
        count[away, host] += 1
    shown = np.where(here, np.arange(here.shape[1]), slots.host)  # the slot whose cubic this one shares
    pieces = slots.pieces[shown] * np.take_along_axis(count, shown, axis=1)
    first = slots.piece[shown] * np.take_along_axis(count, shown, axis=1) + rank
    chosen = np.take_along_axis(cubics, slots.owner[shown][:, :, None], axis=1)
    return segment(chosen, first / pieces, (first + 1) / pieces)


def segment(cubics: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return the part of each cubic (..., 4) between parameters `start` and `stop` (...), by its blossom."""
    a, b, c, d = np.moveaxis(cubics, -1, 0)

    def at(r: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        ab, bc, cd = a + (b - a) * r, b + (c - b) * r, c + (d - c) * r
        abc, bcd = ab + (bc - ab) * s, bc + (cd - bc) * s
        return abc + (bcd - abc) * t

    points = at(start, start, start), at(start, start, stop), at(start, stop, stop), at(stop, stop, stop)
    return np.stack(points, axis=-1)
