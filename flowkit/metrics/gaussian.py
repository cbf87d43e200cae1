"""The best that one Gaussian a class can do: a model that does no better has learned two moments and no more."""

from __future__ import annotations

import numpy as np


def sample_class_gaussians(x: np.ndarray, labels: np.ndarray, wanted: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Draws from a full Gaussian per class, all coordinates together, fitted by maximum likelihood.

    x: (N, ...) rows to fit on, labels: (N,) their classes, wanted: (M,) the classes to draw, each of which has a row
    in x -> (M, ...) float32. A class of fewer rows than coordinates has a singular covariance; its Gaussian then lives
    on the plane through its rows. That needs no ridge, and shrinking towards the pooled or a round covariance made
    poorer drawings of real characters, so nothing is added.
    """
    flat = x.reshape(len(x), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    out = np.empty((len(wanted), flat.shape[1]))
    for label in np.unique(wanted):
        places, rows = np.flatnonzero(wanted == label), flat[labels == label]
        mean = rows.mean(axis=0)
        # With C the centred rows, z C / sqrt(n) for unit noise z has their covariance: no (D, D) matrix is decomposed.
        noise = rng.standard_normal((len(places), len(rows))) / np.sqrt(len(rows))
        out[places] = mean + noise @ (rows - mean)
    return out.reshape(len(wanted), *x.shape[1:]).astype(np.float32)
