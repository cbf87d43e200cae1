"""Cut curves at the edge of a region: a clip path, a simple mask or the frame of a viewport.

Points are complex numbers in numpy arrays. Edges are approximated by polylines. Cuts are accurate to about 1e-3 of a
curve's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from flowkit.sketch.svg_path import Cubic, line

STEPS = 32  # line segments per curve
MAX_PAIRS = 40_000_000  # pairs of line segments compared per drawing
_AT_ONCE = 1 << 20

Subpaths = list[list[Cubic]]
Points = NDArray[np.complex128]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Shape:
    """A filled outline. It is added to a region, or subtracted from it (masks only)."""

    subpaths: Subpaths
    evenodd: bool = False
    adds: bool = True

    @cached_property
    def outline(self) -> Points:
        """Line segments (m, 2)."""
        return _segments(self.subpaths)

    @cached_property
    def coarse(self) -> float:
        """Upper bound of the distance between the outline and the curves."""
        return _deviation(self.subpaths)

    @cached_property
    def frame(self) -> tuple[complex, complex] | None:
        """Two opposite corners if the shape is an upright rectangle, else None. Most clip paths and all viewports are."""
        if not self.adds or len(self.subpaths) != 1 or not 3 <= len(self.subpaths[0]) <= 5:
            return None
        corners = {cubic[0] for cubic in self.subpaths[0]} | {cubic[3] for cubic in self.subpaths[0]}
        upright = len(corners) == 4 and len({c.real for c in corners}) == 2 and len({c.imag for c in corners}) == 2
        return _bounds(np.array(self.subpaths[0])) if upright else None


@dataclass(frozen=True, eq=False)
class Region:
    shapes: Sequence[Shape]  # later ones lie above earlier ones


class TooComplex(Exception):
    """Raised if more than MAX_PAIRS pairs of line segments would be compared."""


class Cutter:
    """Cuts the subpaths of one drawing and counts the segment pairs compared."""

    def __init__(self) -> None:
        self.pairs = 0

    def cut(self, subpaths: Subpaths, region: Region, *, area: str = "", slack: float = 0.0) -> Subpaths:
        """Return the parts of the subpaths inside the region. For a filled shape, add the region's edge inside the shape.

        area: "" for lines, "nonzero" or "evenodd" for filled shapes. Parts within `slack` of the edge are kept.
        Raises TooComplex.
        """
        shapes = [shape for shape in region.shapes if shape.subpaths]
        subpaths = [subpath for subpath in subpaths if subpath]
        if not shapes or not subpaths:
            return []
        if len(shapes) == 1 and shapes[0].frame and _held(subpaths, *shapes[0].frame, slack):
            return subpaths
        self._count(sum(len(shape.outline) for shape in shapes) + 20 * len(subpaths))
        slack += max(shape.coarse for shape in shapes)
        outlines = [shape.outline for shape in shapes]
        edge = np.concatenate(outlines)
        low, high = _bounds(edge)
        low, high = low - (1 + 1j) * slack, high + (1 + 1j) * slack

        def inside(points: Points) -> Flags:
            found = np.zeros(len(points), bool)
            for shape, outline in zip(shapes, outlines, strict=True):
                within = self._within(points, outline, shape.evenodd)
                found = found | within if shape.adds else found & ~within
            return found

        cubics, starts = _joined(subpaths)
        # Skip shapes that do not overlap the region: in a large drawing, most do not.
        x = np.minimum.reduceat(cubics.real.min(1), starts), np.maximum.reduceat(cubics.real.max(1), starts)
        y = np.minimum.reduceat(cubics.imag.min(1), starts), np.maximum.reduceat(cubics.imag.max(1), starts)
        meets = (x[0] <= high.real) & (low.real <= x[1]) & (y[0] <= high.imag) & (low.imag <= y[1])
        met = [subpath for subpath, here in zip(subpaths, meets.tolist(), strict=True) if here]
        out: Subpaths = []
        if met:
            cubics, starts = _joined(met)
            pieces, origins = self._split(cubics, edge)
            middles = _at(pieces, 0.5)
            keep = inside(middles)
            if not keep.all():
                keep |= self._near(middles, edge, slack)
            bounds = [*np.searchsorted(origins, starts).tolist(), len(pieces)]
            for subpath, i, j in zip(met, bounds, bounds[1:], strict=False):
                out += [subpath] if keep[i:j].all() else _chains(pieces[i:j], keep[i:j])
        if area:
            own = _segments(subpaths)
            slack += _deviation(subpaths)
            out += self._edges(shapes, outlines, own, area == "evenodd", inside, slack)
        return out

    def _edges(self, shapes, outlines, own, evenodd, inside, slack) -> Subpaths:
        """Return the parts of the region's edge that lie inside a filled shape. own: outline of the shape."""
        out: Subpaths = []
        for k, shape in enumerate(shapes):
            against = np.concatenate([own, *(o for i, o in enumerate(outlines) if i != k)])
            for subpath in shape.subpaths:
                closed = subpath if subpath[0][0] == subpath[-1][3] else [*subpath, line(subpath[-1][3], subpath[0][0])]
                cubics, _ = self._split(np.array(closed), against)
                middles = _at(cubics, 0.5)
                along = _at(cubics, 0.51) - _at(cubics, 0.49)
                across = (
                    1j
                    * along
                    / np.maximum(np.abs(along), 1e-300)
                    * 1.5
                    * max(slack, 1e-9 * float(np.abs(cubics).max()))
                )
                keep = self._within(middles, own, evenodd) & (inside(middles + across) != inside(middles - across))
                if keep.any():
                    keep &= ~self._near(middles, own, slack)
                out += [closed] if keep.all() else _chains(cubics, keep)
        return out

    def _split(self, cubics: Points, edge: Points) -> tuple[Points, NDArray[np.int64]]:
        """Cut cubics (n, 4) where they cross segments (m, 2). Return pieces (k, 4) and the cubic index (k,) of each."""
        straight = _straight(cubics)
        numbers, places = [], []
        for steps, chosen in ((1, np.flatnonzero(straight)), (STEPS, np.flatnonzero(~straight))):
            flat = _at(cubics[chosen][:, None], np.linspace(0, 1, steps + 1))  # (n, steps + 1)
            which, where = self._crossings(flat[:, :-1].ravel(), flat[:, 1:].ravel(), edge)
            numbers.append(chosen[which // steps])
            places.append((which % steps + where) / steps)
        number, place = np.concatenate(numbers), np.concatenate(places)
        order = np.lexsort((place, number))
        bounds = np.searchsorted(number[order], np.arange(len(cubics) + 1)).tolist()
        place = place[order].tolist()
        pieces: list[Points] = []
        origins: list[int] = []
        for i, cubic in enumerate(cubics):
            used, rest = 0.0, cubic
            for cut in place[bounds[i] : bounds[i + 1]]:
                if cut - used < 1e-6 or cut > 1 - 1e-6:
                    continue
                piece, rest = _halves(rest, (cut - used) / (1 - used))
                pieces.append(piece)
                used = cut
            pieces.append(rest)
            origins += [i] * (len(pieces) - len(origins))
        return np.array(pieces), np.array(origins)

    def _crossings(self, a0: Points, a1: Points, edge: Points) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the indices of the segments a0-a1 that cross the edge, and the position of each crossing in [0, 1]."""
        self._count(len(a0) * len(edge))
        which, where = [np.zeros(0, np.int64)], [np.zeros(0)]
        rows = max(1, _AT_ONCE // len(edge))
        b0, d2 = edge[:, 0], edge[:, 1] - edge[:, 0]
        for i in range(0, len(a0), rows):
            start, d1 = a0[i : i + rows, None], (a1 - a0)[i : i + rows, None]
            between = b0 - start
            with np.errstate(all="ignore"):
                area = _cross(d1, d2)
                s, u = _cross(between, d2) / area, _cross(between, d1) / area
                hit = (s >= 0) & (s <= 1) & (u >= 0) & (u <= 1)
            row, column = np.nonzero(hit)
            which.append(row + i)
            where.append(s[row, column])
        return np.concatenate(which), np.concatenate(where)

    def _within(self, points: Points, outline: Points, evenodd: bool) -> Flags:
        """Return whether each point is inside, by the winding number of the outline's segments (m, 2)."""
        self._count(len(points) * len(outline))
        turns = np.empty(len(points), np.int64)
        rows = max(1, _AT_ONCE // len(outline))
        b0, b1 = outline[:, 0], outline[:, 1]
        for i in range(0, len(points), rows):
            p = points[i : i + rows, None]
            up = (b0.imag <= p.imag) & (b1.imag > p.imag)
            down = (b1.imag <= p.imag) & (b0.imag > p.imag)
            side = _cross(b1 - b0, p - b0)
            turns[i : i + rows] = (up & (side > 0)).sum(1) - (down & (side < 0)).sum(1)
        return turns % 2 != 0 if evenodd else turns != 0

    def _near(self, points: Points, edge: Points, slack: float) -> Flags:
        self._count(len(points) * len(edge))
        near = np.zeros(len(points), bool)
        rows = max(1, _AT_ONCE // len(edge))
        b0, d = edge[:, 0], edge[:, 1] - edge[:, 0]
        for i in range(0, len(points), rows):
            to = points[i : i + rows, None] - b0
            t = np.clip((to * d.conj()).real / np.maximum(np.abs(d) ** 2, 1e-300), 0, 1)
            near[i : i + rows] = np.abs(to - t * d).min(axis=1) <= slack
        return near

    def _count(self, pairs: int) -> None:
        self.pairs += pairs
        if self.pairs > MAX_PAIRS:
            raise TooComplex


def covers(subpaths: Subpaths, box: tuple[float, float, float, float]) -> bool:
    """Return whether a single filled outline covers a box (x, y, width, height)."""
    drawn = [subpath for subpath in subpaths if subpath]
    if len(drawn) != 1 or len(drawn[0]) > 64:
        return False
    x, y, w, h = box
    slack = 1e-3 * max(w, h)
    low, high = _bounds(np.array(drawn[0])[:, [0, 3]])
    if low.real > x + slack or low.imag > y + slack or high.real < x + w - slack or high.imag < y + h - slack:
        return False
    grid = np.linspace(0.01, 0.99, 33)
    points = (x + w * grid[None, :]) + 1j * (y + h * grid[:, None])
    return bool(Cutter()._within(points.ravel(), _segments(drawn), False).all())


def has_area(subpath: list[Cubic]) -> bool:
    """Return whether a filled outline has an area, rather than being a straight line."""
    points = np.array(subpath).ravel()
    with np.errstate(all="ignore"):  # coordinates that overflow are refused later
        points = points - points[0]
        far = points[np.abs(points).argmax()]
        reach = abs(far)
        return not reach < math.inf or bool(reach > 0 and np.abs(_cross(points / reach, far / reach)).max() > 1e-6)


def box_shape(x: float, y: float, width: float, height: float) -> Shape:
    corners = [complex(x, y), complex(x + width, y), complex(x + width, y + height), complex(x, y + height)]
    return Shape([[line(a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]])


def _held(subpaths: Subpaths, low: complex, high: complex, slack: float) -> bool:
    """Return whether all control points lie in an upright rectangle."""
    points: Points = np.array([cubic for subpath in subpaths for cubic in subpath])
    x, y = points.real, points.imag
    return bool(
        x.min() >= low.real - slack and x.max() <= high.real + slack
        and y.min() >= low.imag - slack and y.max() <= high.imag + slack
    )  # fmt: skip


def _cross(a: Points, b: Points) -> NDArray[np.float64]:
    return a.real * b.imag - a.imag * b.real


def _at(cubics: Points, t: np.ndarray | float) -> Points:
    p0, p1, p2, p3 = (cubics[..., i] for i in range(4))
    s = 1 - t
    return s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3


def _halves(p: Points, t: float) -> tuple[Points, Points]:
    """Split a cubic at t, by de Casteljau's algorithm."""
    a, b, c = p[0] + t * (p[1] - p[0]), p[1] + t * (p[2] - p[1]), p[2] + t * (p[3] - p[2])
    d, e = a + t * (b - a), b + t * (c - b)
    middle = d + t * (e - d)
    return np.array([p[0], a, d, middle]), np.array([middle, e, c, p[3]])


def _joined(subpaths: Subpaths) -> tuple[Points, NDArray[np.int64]]:
    """Return all cubics (n, 4) and the index of the first cubic of each subpath."""
    starts = np.cumsum([0, *map(len, subpaths[:-1])])
    return np.array([cubic for subpath in subpaths for cubic in subpath]), starts


def _straight(cubics: Points) -> Flags:
    """Return which cubics are lines at constant speed. Lines in path data are read as such."""
    p0, p1, p2, p3 = cubics.T
    step = p3 - p0
    return np.abs(p1 - p0 - step / 3) + np.abs(p2 - p0 - step * (2 / 3)) <= 1e-9 * np.abs(step)


def _segments(subpaths: Subpaths) -> Points:
    """Return closed outlines as line segments (m, 2), in no particular order."""
    cubics, starts = _joined(subpaths)
    straight = _straight(cubics)
    flat = _at(cubics[~straight][:, None], np.linspace(0, 1, STEPS + 1))
    curved = np.stack([flat[:, :-1].ravel(), flat[:, 1:].ravel()], axis=1)
    closing = np.stack([cubics[np.append(starts[1:], len(cubics)) - 1, 3], cubics[starts, 0]], axis=1)
    return np.concatenate([cubics[straight][:, [0, 3]], curved, closing[closing[:, 0] != closing[:, 1]]])


def _deviation(subpaths: Subpaths) -> float:
    """Return an upper bound of the distance between the curves and their segments, from their second derivative."""
    p0, p1, p2, p3 = _joined(subpaths)[0].T
    return float(0.75 / STEPS**2 * np.maximum(np.abs(p0 - 2 * p1 + p2), np.abs(p1 - 2 * p2 + p3)).max())


def _bounds(points: Points) -> tuple[complex, complex]:
    x, y = points.real, points.imag
    return complex(x.min(), y.min()), complex(x.max(), y.max())


def _chains(cubics: Points, keep: Flags) -> Subpaths:
    """Join consecutive kept pieces to subpaths. A closed subpath that was cut starts where it enters the region again."""
    pieces: list[Cubic] = [tuple(piece) for piece in cubics.tolist()]
    groups = [
        (key, [pieces[i] for i, _ in group]) for key, group in groupby(enumerate(keep.tolist()), key=lambda one: one[1])
    ]
    if len(groups) > 1 and groups[0][0] and groups[-1][0] and pieces[-1][3] == pieces[0][0]:
        groups[0] = (True, [*groups.pop()[1], *groups[0][1]])
    return [chain for key, chain in groups if key]
