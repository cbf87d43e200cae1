"""Exact optimal transport between two sets of points, and the energy of the ways that a flow takes between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flowkit.flow.couplings.assignment import assign

if TYPE_CHECKING:
    from torch import Tensor


def wasserstein2(a: np.ndarray, b: np.ndarray) -> float:
    """The 2-Wasserstein distance of point sets a and b, both (N, D): the root of the exact assignment's mean squared distance.

    Memory is some 24 N^2 bytes: 2.4 GB for 10,000 points. Raises ValueError where the sets differ in size or are not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(f"point sets of shapes {a.shape} and {b.shape}; expected two of the same (N, D), N >= 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a point set holds NaN or infinity; its distance to another is not defined")
    matched = assign(squared_distances(a, b))
    return float(np.sqrt(np.square(a - b[matched]).sum(axis=1).mean()))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a: (N, D), b: (M, D) -> (N, M). Of few dimensions by differences: by the expanded square near points lose digits."""
    total = np.square(a[:, None, 0] - b[None, :, 0])
    for axis in range(1, a.shape[1]):
        total += np.square(a[:, None, axis] - b[None, :, axis])
    return total


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
