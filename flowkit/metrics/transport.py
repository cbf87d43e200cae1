"""Exact optimal transport between two sets of points, and the energy of the ways that a flow takes between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

COARSE = 1500  # points of each side that the prices of a large problem are first worked out on
COARSE_END, FINE_END = 0.003, 0.1  # the entropy's weight at the end: of the mean cost, of the mean squared spacing
SWEEPS, FINE_SWEEPS = 10, 40
NEIGHBOURS = 40
BLOCK = 500  # rows of the cost matrix at a time
DIRECT = 1500  # rows up to which prices are not worth their making


def wasserstein2(a: np.ndarray, b: np.ndarray) -> float:
    """The 2-Wasserstein distance of point sets a and b, both (N, D): the root of the exact assignment's mean squared distance.

    Memory is 8 N^2 bytes: 0.8 GB for 10,000 points. Raises ValueError where the sets differ in size or are not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(f"point sets of shapes {a.shape} and {b.shape}; expected two of the same (N, D), N >= 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a point set holds NaN or infinity; its distance to another is not defined")
    matched = assign(squared_distances(a, b)) if len(a) <= DIRECT else _assign_large(a, b)
    return float(np.sqrt(np.square(a - b[matched]).sum(axis=1).mean()))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a: (N, D), b: (M, D) -> (N, M). Of few dimensions by differences: by the expanded square near points lose digits."""
    total = np.square(a[:, None, 0] - b[None, :, 0])
    for axis in range(1, a.shape[1]):
        total += np.square(a[:, None, axis] - b[None, :, axis])
    return total


def assign(cost: np.ndarray) -> np.ndarray:
    """cost (N, N) -> (N,): the column of each row in an assignment of the least sum."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


def _assign_large(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same assignment, sooner: prices on columns and rows change every assignment's sum by the same number.

    With nearly the best prices the cheapest column of most rows is their own in the end, and the augmenting paths are short.
    They are those of the entropic problem (arXiv 1306.0895): first of a part of the points, then of all of them with the
    neighbours that the prices leave in question. They need not be exact, for the assignment is.
    """
    prices = _near_prices(a, b, *_coarse_prices(a, b))
    cost = np.empty((len(a), len(b)))
    for start in range(0, len(a), BLOCK):
        block = squared_distances(a[start : start + BLOCK], b) - prices
        cost[start : start + BLOCK] = block - block.min(axis=1, keepdims=True)
    return assign(cost)


def _coarse_prices(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Rough prices (M,) of b's points, from some of both, and the entropy's weight that they are good for."""
    rng = np.random.default_rng(0)
    some_a, some_b = (x[rng.permutation(len(x))[:COARSE]].astype(np.float32) for x in (a, b))
    cost = squared_distances(some_a, some_b)
    transposed = np.ascontiguousarray(cost.T)
    weight = start = float(cost.mean()) or 1.0
    of_a, of_b = np.zeros(len(some_a), np.float32), np.zeros(len(some_b), np.float32)
    while weight > COARSE_END * start:
        weight /= 2
        for _ in range(SWEEPS):
            of_a = _soft_minimum(cost - of_b, weight)
            of_b = _soft_minimum(transposed - of_a, weight)
    prices = [
        _soft_minimum(squared_distances(b[at : at + BLOCK], some_a) - of_a, weight) for at in range(0, len(b), BLOCK)
    ]
    return np.concatenate(prices), weight


def _near_prices(a: np.ndarray, b: np.ndarray, of_b: np.ndarray, weight: float) -> np.ndarray:
    """Good prices (M,) of b's points: Sinkhorn's sweeps over the nearest at the present prices, ever less entropic."""
    from scipy.spatial import KDTree

    spacing = float(np.square(KDTree(b).query(b, 2)[0][:, 1]).mean())
    of_a = _nearest(a, b, of_b)[1].min(axis=1)
    while weight > FINE_END * spacing and weight > 0:
        weight /= 2
        to_b, cost_b = _nearest(a, b, of_b)
        cost_b += of_b[to_b]
        to_a, cost_a = _nearest(b, a, of_a)
        cost_a += of_a[to_a]
        for _ in range(FINE_SWEEPS):
            of_a = _soft_minimum(cost_b - of_b[to_b], weight)
            of_b = _soft_minimum(cost_a - of_a[to_a], weight)
    return of_b


def _nearest(x: np.ndarray, y: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of x the y's of the least squared distance less price: their rows (N, K) and those figures (N, K).

    A price is one more coordinate: |x - y|^2 - p = |(x, 0) - (y, sqrt(top - p))|^2 - top.
    """
    from scipy.spatial import KDTree

    top = prices.max()
    tree = KDTree(np.column_stack([y, np.sqrt(top - prices)]))
    distance, rows = tree.query(np.column_stack([x, np.zeros(len(x))]), NEIGHBOURS)
    return np.asarray(rows), np.square(np.asarray(distance)) - top


def _soft_minimum(cost: np.ndarray, weight: float) -> np.ndarray:
    """-w log mean exp(-cost / w) over the last axis; overwrites `cost`."""
    least = cost.min(axis=1, keepdims=True)
    cost -= least
    cost *= -1 / weight
    np.exp(cost, out=cost)
    return least[:, 0] - weight * np.log(cost.mean(axis=1))


def path_energy(velocity: Callable[[Tensor, Tensor], Tensor], x0: Tensor, steps: int = 100) -> float:
    """E of the integral of |v|^2 over t in [0, 1], along the Euler solution from x0 (N, D) in `steps` steps (arXiv 2307.03672).

    velocity: (x (N, D), t (N,)) -> (N, D). At least the squared 2-Wasserstein distance of x0 and where the flow takes it,
    and equal to it if the flow is the optimal transport.
    """
    import torch

    x, total = x0, 0.0
    with torch.no_grad():
        for step in range(steps):
            v = velocity(x, x.new_full((len(x),), step / steps))
            total = total + v.square().sum(dim=1).mean() / steps
            x = x + v / steps
    return float(total)


def normalised_path_energy(energy: float, w2: float) -> float:
    """|energy - w2^2| / w2^2: 0 is optimal transport (arXiv 2307.03672). w2: between the two true distributions."""
    return abs(energy - w2**2) / w2**2
