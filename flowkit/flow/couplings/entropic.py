"""Entropic transport between two samples of equal size: potentials by Sinkhorn's iteration, stabilized in the log domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOOR = -60.0  # log of the smallest kernel entry; denormal numbers are a hundred times slower to multiply
CHECKED = 20  # sweeps between checks of the marginals


def potentials(
    cost: np.ndarray, regularizations: Sequence[float], sweeps: int, tolerance: float = 0.0, relaxation: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (f (B,), g (B,)) with exp((f_i + g_j - cost_ij) / r) the plan for the last r, with rows and columns that sum to 1.

    cost: (B, B), float32 or float64, the dtype of the potentials. Goes from large to small r, with at most CHECKED sweeps each,
    and for the last one `sweeps`, or until its rows sum to 1 within `tolerance`. The kernel is formed around the potentials of
    the previous r (arXiv 1610.06519), so costs of thousands of r do not underflow: log-domain Sinkhorn at the price of a matrix
    product. relaxation: in [1, 2), step length relative to Sinkhorn's, in the potentials (arXiv 1711.01851). Above 1 converges
    faster for nearly all plans, but convergence is proven for 1 only.
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
                return f, g  # r is too small for this precision; keep the potentials of the previous r
            f, g = moved_f, moved_g
            done += CHECKED
            if last and tolerance and np.abs(u * (kernel @ v) - 1).max() < tolerance:
                break
    return f, g


def _relaxed(before: np.ndarray, after: np.ndarray, relaxation: float) -> np.ndarray:
    return after if relaxation == 1 else after * (after / before) ** after.dtype.type(relaxation - 1)


def log_plan(cost: np.ndarray, f: np.ndarray, g: np.ndarray, regularization: float) -> np.ndarray:
    """Return the log of the plan (B, B) of those potentials. Rows sum to 1 exactly, columns as far as Sinkhorn converged."""
    log = (f[:, None] + g - cost) / regularization
    top = log.max(axis=1, keepdims=True)
    return log - top - np.log(np.exp(log - top).sum(axis=1, keepdims=True))


def annealed(start: float, end: float, factor: float = 4.0) -> list[float]:
    """Return start, start / factor, ... down to end."""
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
