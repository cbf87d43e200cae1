"""Geometry of cubic Bezier curves in numpy. A cubic is 8 numbers, [x0 y0 x1 y1 x2 y2 x3 y3]; arrays are (..., 8)."""

from __future__ import annotations

import numpy as np

_ALONG = 0.03  # tuned on Quick, Draw!; 1 (plain least squares) leaves a third more error at the same cost
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


_PAIRS = 1 << 20  # pairs of a point and a segment that are measured at once


def points(cubics: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the points (..., T, 2) of each cubic (..., 8) at the parameters t (T,) in [0, 1]."""
    p0, p1, p2, p3 = _control_points(cubics)
    t = np.asarray(t)[:, None]
    s = 1 - t
    return s**3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t**3 * p3


def from_lines(vertices: np.ndarray) -> np.ndarray:
    """Convert a polyline (n, 2) to straight cubics (n - 1, 8) at constant speed."""
    start, step = vertices[:-1], np.diff(vertices, axis=0)
    return np.concatenate([start, start + step / 3, start + step * (2 / 3), vertices[1:]], axis=1)


def arc_length(cubics: np.ndarray) -> np.ndarray:
    """Return the lengths (...) of cubics (..., 8), by Gauss-Legendre quadrature with 16 nodes."""
    speed = np.linalg.norm(_velocity(cubics, (_NODES + 1) / 2), axis=-1)
    return speed @ (_WEIGHTS / 2)


def split(cubics: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Split cubics (..., 8) at t into two parts (..., 8) each, by de Casteljau's algorithm. The curve does not change."""
    p0, p1, p2, p3 = (p[..., 0, :] for p in _control_points(cubics))
    p01, p12, p23 = p0 + t * (p1 - p0), p1 + t * (p2 - p1), p2 + t * (p3 - p2)
    p012, p123 = p01 + t * (p12 - p01), p12 + t * (p23 - p12)
    middle = p012 + t * (p123 - p012)
    return np.concatenate([p0, p01, p012, middle], -1), np.concatenate([middle, p123, p23, p3], -1)


def split_evenly(cubic: np.ndarray, pieces: int) -> np.ndarray:
    """Split a cubic (8,) into `pieces` cubics (pieces, 8) of nearly equal length. The curve does not change."""
    grid = np.linspace(0, 1, 65)
    steps = np.linalg.norm(np.diff(points(cubic, grid), axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if not along[-1] > 0:
        along = grid  # a point: cut the parameter instead
    cuts = np.interp(np.arange(1, pieces) * along[-1] / pieces, along, grid)
    out, rest, used = [], cubic, 0.0
    for cut in cuts:
        piece, rest = split(rest, (cut - used) / (1 - used))
        out.append(piece)
        used = cut
    return np.stack([*out, rest])


def fit(samples: np.ndarray, iterations: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Fit a cubic to each row of evenly spaced samples (B, M, 2), M >= 4. Return cubics (B, 8) and their errors (B,).

    The error is the largest distance to the samples. The end points are fixed. Inner control points and the samples'
    parameters are improved alternately (Schneider, Graphics Gems, 1990). Distances along the curve get a smaller weight
    than those across it, because the next parameter update corrects them. This converges faster (Wang, Pottmann and Liu,
    2006).
    """
    z = np.ascontiguousarray(samples, np.float64).view(np.complex128)[..., 0]
    u = np.broadcast_to(np.linspace(0, 1, z.shape[1]), z.shape)
    along, weight = np.ones_like(z), 1.0
    best = np.full((len(z), 4), np.nan, np.complex128)
    least = np.full(len(z), np.inf)
    for _ in range(iterations):
        control = _least_squares(z, u, along, weight)
        u, along, error = _nearer(control, z, u)
        better = error < least
        best[better], least[better] = control[better], error[better]
        weight = _ALONG
    return best.view(np.float64), least


def _least_squares(z: np.ndarray, u: np.ndarray, along: np.ndarray, weight: float) -> np.ndarray:
    """Return control points (B, 4) that interpolate the ends of z (B, M) and fit the rest by least squares.

    Points are complex numbers x + iy. u: (B, M) parameters of the samples. The component of each residual in the direction
    `along` (B, M) has weight `weight`.
    """
    s = 1 - u
    basis = np.stack([3 * s * s * u, 3 * s * u * u], axis=1)  # (B, 2, M)
    first, last = z[:, :1], z[:, -1:]
    rest = z - s**3 * first - u**3 * last
    x, y, less = np.real(along), np.imag(along), weight - 1
    xx, xy, yy = 1 + less * x * x, less * x * y, 1 + less * y * y  # weights of the residuals, (B, M) each
    normal = np.empty((len(z), 4, 4))  # unknowns: x of both inner points, y of both
    across = basis.transpose(0, 2, 1)
    normal[:, :2, :2] = (basis * xx[:, None]) @ across
    normal[:, :2, 2:] = normal[:, 2:, :2] = (basis * xy[:, None]) @ across
    normal[:, 2:, 2:] = (basis * yy[:, None]) @ across
    rx, ry = np.real(rest), np.imag(rest)
    right = (basis @ np.stack([xx * rx + xy * ry, xy * rx + yy * ry], axis=-1)).transpose(0, 2, 1).reshape(-1, 4, 1)
    scale = normal[:, range(4), range(4)].sum(1) + 1e-30
    normal[:, range(4), range(4)] += 1e-9 * scale[:, None]  # clustered samples make it singular
    inner = np.linalg.solve(normal, right)[..., 0]
    return np.concatenate([first, inner[:, :2] + 1j * inner[:, 2:], last], axis=1)


def _nearer(control: np.ndarray, z: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take one Newton step of u (B, M) towards the nearest points of the curve.

    Return the new parameters (B, M), the directions of the curve there (B, M), and the largest distance (B,) before the
    step, at the samples and halfway between them.
    """
    p0, p1, p2, p3 = (control[:, i, None] for i in range(4))
    c1, c2, c3 = 3 * (p1 - p0), 3 * (p2 - 2 * p1 + p0), p3 - 3 * (p2 - p1) - p0
    half = (u[:, :-1] + u[:, 1:]) / 2
    between = ((c3 * half + c2) * half + c1) * half + p0 - (z[:, :-1] + z[:, 1:]) / 2
    gap = ((c3 * u + c2) * u + c1) * u + p0 - z
    error = np.maximum(np.abs(gap).max(axis=1), np.abs(between).max(axis=1))
    velocity = (3 * c3 * u + 2 * c2) * u + c1
    acceleration = 6 * c3 * u + 2 * c2
    dot = lambda a, b: a.real * b.real + a.imag * b.imag  # noqa: E731
    speed = dot(velocity, velocity)
    slope = speed + dot(gap, acceleration)
    slope = np.where(slope > 0.1 * speed, slope, speed)  # beyond the center of curvature, Newton's method would diverge
    moved = np.clip(u - dot(gap, velocity) / np.maximum(slope, 1e-12), 0, 1)
    moved[:, 0], moved[:, -1] = 0, 1
    # Keep samples in their order along the curve. Otherwise a fit that folds back could still pass near all of them.
    return np.maximum.accumulate(moved, axis=1), velocity / np.sqrt(np.maximum(speed, 1e-24)), error


def _control_points(cubics: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return four arrays (..., 1, 2), which broadcast with parameters (T, 1)."""
    return tuple(cubics[..., None, 2 * i : 2 * i + 2] for i in range(4))


def _velocity(cubics: np.ndarray, t: np.ndarray) -> np.ndarray:
    p0, p1, p2, p3 = _control_points(cubics)
    t = t[:, None]
    return 3 * ((1 - t) ** 2 * (p1 - p0) + 2 * (1 - t) * t * (p2 - p1) + t * t * (p3 - p2))


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the directed Hausdorff distance from the vertices of polyline a (n, 2) to polyline b (m, 2), m >= 2."""
    start, step = b[:-1], np.diff(b, axis=0)
    rows = max(1, _PAIRS // len(start))  # all pairs of two long polylines would take gigabytes
    return max(_nearest(a[i : i + rows], start, step) for i in range(0, len(a), rows))


def _nearest(a: np.ndarray, start: np.ndarray, step: np.ndarray) -> float:
    to = a[:, None] - start
    t = np.clip((to * step).sum(-1) / np.maximum((step * step).sum(-1), 1e-30), 0, 1)
    return float(np.linalg.norm(to - t[..., None] * step, axis=-1).min(axis=1).max())
