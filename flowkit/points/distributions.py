"""Two-dimensional distributions that the field's tables are measured on, in the units of the published code.

- 8gaussians: eight Gaussians on a circle of radius 5. torchcfm and C2OT (arXiv 2503.10636) hand sqrt(.1) to torch as the
  covariance where a variance of .1 is meant, so that the standard deviation is .1^(1/4) = .562; here as there.
- moons: two half circles, one point after the other at equal angles, half of the points on each; all of a point is moved
  by one uniform number below .2 on both axes; then 3 x - 1. torchcfm and C2OT alike.
- scurve: the S of scikit-learn seen from its side, noise .05, times 1.5: as [SF]2M (arXiv 2307.03672) trains on it.
- checkerboard: eight squares of side 2 in [-4, 4]^2, and spirals: two arms of one and a half turns within about 3.5 of the
  middle; both as FFJORD (arXiv 1810.01367) has them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowkit.errors import UserError, listing, nearest

LABELED, CONDITIONED = "-labelled", "-conditioned"
DIRECTIONS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
SQUARES = ("a1", "a3", "b2", "b4", "c1", "c3", "d2", "d4")  # as on a chess board
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "8gaussians": DIRECTIONS,
    "moons": ("upper", "lower"),
    "scurve": ("upper", "lower"),
    "checkerboard": SQUARES,
    "spirals": ("first", "second"),
}
NAMES = tuple(name + what for name in CLASS_NAMES for what in ("", LABELED, CONDITIONED))

Drawn = tuple[np.ndarray, np.ndarray]  # points (n, 2) float64 and their classes (n,) int64


def draw(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Draw `n` points of the distribution `name`: x (n, 2) float32, label (n,) int64, condition (n, 1) float32.

    label is None unless the name ends in "-labelled", condition unless it ends in "-conditioned": it is the point's own
    first coordinate then, as in C2OT. The points are in no order. Raises UserError for a name that there is not.
    """
    if name not in NAMES:
        raise UserError(f"unknown built-in points {name!r}; expected {listing(NAMES)}{nearest(name, NAMES)}")
    kind = name.removesuffix(LABELED).removesuffix(CONDITIONED)
    x, label = _DRAW[kind](n, rng)
    order = rng.permutation(n)
    x = x[order].astype(np.float32)
    return x, label[order] if name.endswith(LABELED) else None, x[:, :1].copy() if name.endswith(CONDITIONED) else None


def class_names(name: str) -> tuple[str, ...]:
    """Return the meanings of the labels of `draw(name, ...)`. Empty if there are none."""
    return CLASS_NAMES[name.removesuffix(LABELED)] if name.endswith(LABELED) else ()


def _eight_gaussians(n: int, rng: np.random.Generator) -> Drawn:
    label = rng.integers(8, size=n)
    angle = label * (np.pi / 4)
    center = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return center + 0.1**0.25 * rng.standard_normal((n, 2)), label


def _moons(n: int, rng: np.random.Generator) -> Drawn:
    upper, lower = np.linspace(0, np.pi, n // 2), np.linspace(0, np.pi, n - n // 2)
    x = np.concatenate([
        np.stack([np.cos(upper), np.sin(upper)], axis=1),
        np.stack([1 - np.cos(lower), 0.5 - np.sin(lower)], axis=1),
    ])  # fmt: skip
    return 3 * (x + 0.2 * rng.random((n, 1))) - 1, np.repeat([0, 1], [len(upper), len(lower)])


def _s_curve(n: int, rng: np.random.Generator) -> Drawn:
    angle = 3 * np.pi * (rng.random(n) - 0.5)
    x = np.stack([np.sin(angle), np.sign(angle) * (np.cos(angle) - 1)], axis=1)
    return 1.5 * (x + 0.05 * rng.standard_normal((n, 2))), (angle > 0).astype(np.int64)


def _checkerboard(n: int, rng: np.random.Generator) -> Drawn:
    label = rng.integers(8, size=n)
    column, row = label // 2, 2 * (label % 2) + label // 2 % 2
    corner = 2.0 * np.stack([column, row], axis=1) - 4
    return corner + 2 * rng.random((n, 2)), label


def _spirals(n: int, rng: np.random.Generator) -> Drawn:
    label = rng.integers(2, size=n)
    angle = 3 * np.pi * np.sqrt(rng.random((n, 1)))
    arm = angle * np.concatenate([-np.cos(angle), np.sin(angle)], axis=1) + 0.5 * rng.random((n, 2))
    return np.where(label[:, None] == 0, arm, -arm) / 3 + 0.1 * rng.standard_normal((n, 2)), label


_DRAW: dict[str, Callable[[int, np.random.Generator], Drawn]] = {
    "8gaussians": _eight_gaussians,
    "moons": _moons,
    "scurve": _s_curve,
    "checkerboard": _checkerboard,
    "spirals": _spirals,
}
