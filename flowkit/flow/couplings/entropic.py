"""Entropic transport between two samples of equal size: potentials by Sinkhorn's iteration, stabilised in the log domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOOR = -60.0  # log of the least kernel entry: what underflows or is denormal costs a hundred times more to multiply
CHECKED = 20  # sweeps between two looks at the marginals


def potentials(
    cost: np.ndarray, regularizations: Sequence[float], sweeps: int, tolerance: float = 0.0, relaxation: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(f (B,), g (B,)) with exp((f_i + g_j - cost_ij) / r) the plan of the last r, its rows and columns summing to 1.

    cost: (B, B), float32 or float64, as the potentials will be. From large r to small, at most CHECKED sweeps each, the
    last one `sweeps`, or until its rows sum to 1 within `tolerance`. The kernel is formed about the potentials of the r before
    it (arXiv 1610.06519), so costs thousands of r large do not underflow: log-domain Sinkhorn at the price of a matrix product.
    relaxation: in [1, 2), how far beyond Sinkhorn's own step each goes, in the potentials (arXiv 1711.01851). Above 1 nearly all
    plans are approached sooner; that each of them is approached is proven for 1 alone.
    """
    g = cost.min(axis=0)
    f = (cost - g).min(axis=1)
    for stage, r in enumerate(regularizations):
        last = stage == len(regularizations) - 1
        done, wanted = 0, sweeps if last else min(sweeps, CHECKED)
        while done < wanted:
            kernel = _kernel(cost, f, g, r)
            u = v = np.ones(len(f), cost.dtype)
            for _ in range(min(CHECKED, wanted - done)):
                u = _relaxed(u, 1 / (kernel @ v), relaxation)
                v = _relaxed(v, 1 / (u @ kernel), relaxation)
            moved_f, moved_g = f + r * np.log(u), g + r * np.log(v)
            if not (np.isfinite(moved_f).all() and np.isfinite(moved_g).all()):
                return f, g  # too steep for this precision: those of the larger r still stand
            f, g = moved_f, moved_g
            done += CHECKED
            if last and tolerance and np.abs(u * (kernel @ v) - 1).max() < tolerance:
                break
    return f, g


def _relaxed(before: np.ndarray, after: np.ndarray, relaxation: float) -> np.ndarray:
    return after if relaxation == 1 else after * (after / before) ** after.dtype.type(relaxation - 1)


def log_plan(cost: np.ndarray, f: np.ndarray, g: np.ndarray, regularization: float) -> np.ndarray:
    """Logarithm of the plan (B, B) of those potentials; its rows sum to 1 exactly, its columns as far as Sinkhorn came."""
    log = (f[:, None] + g - cost) / regularization
    top = log.max(axis=1, keepdims=True)
    return log - top - np.log(np.exp(log - top).sum(axis=1, keepdims=True))


def annealed(start: float, end: float, factor: float = 4.0) -> list[float]:
    """start, start / factor, ... down to end."""
    steps = [end]
    while steps[-1] * factor < start:
        steps.append(steps[-1] * factor)
    return steps[::-1]


def _kernel(cost: np.ndarray, f: np.ndarray, g: np.ndarray, r: float) -> np.ndarray:
    kernel = np.subtract(g, cost)
    kernel += f[:, None]
    kernel *= cost.dtype.type(1 / r)
    np.maximum(kernel, FLOOR, out=kernel)
    return np.exp(kernel, out=kernel)
