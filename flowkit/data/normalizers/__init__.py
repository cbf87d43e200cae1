"""Normalizers bring data to about zero mean and unit variance, as a flow from unit noise wants it, and back.

Fitted once on the training rows alone; the statistics travel with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flowkit.data.normalizers.affine import AffineNormalizer, fit_global, fit_none, fit_robust, fit_zscore
from flowkit.data.normalizers.base import Normalizer
from flowkit.data.normalizers.whitening import FLOOR, WhiteningNormalizer, fit_whitening
from flowkit.flow.choices import Choice, choose

__all__ = ["NORMALIZERS", "AffineNormalizer", "Normalizer", "WhiteningNormalizer", "fit_normalizer",
           "normalizer_from_json"]  # fmt: skip

Fit = Callable[[np.ndarray, np.ndarray], Normalizer]


def whitening(floor: float = FLOOR, components: float | None = None) -> Fit:
    """The settings of `fit_whitening`."""
    return lambda x, rows: fit_whitening(x, rows, floor=floor, components=components)


NORMALIZERS: dict[str, Callable[..., Fit]] = {
    "none": lambda: fit_none,
    "global": lambda: fit_global,
    "zscore": lambda: fit_zscore,
    "robust": lambda: fit_robust,
    "whitening": whitening,
}


def fit_normalizer(choice: Choice, x: np.ndarray, rows: np.ndarray) -> Normalizer:
    """Fit on `x[rows]`, the training rows: in chunks, so that memory-mapped x (N, ...) is never copied whole.

    choice: a name, or a table with its settings such as {"name": "whitening", "components": 128}.

    none, global (one mean and one standard deviation over every element), zscore (one of each per element), robust (median
    and interquartile range per element), whitening (principal components). Raises UserError for an unknown one.
    """
    return choose("normalizer", NORMALIZERS, choice, {})(x, rows)


def normalizer_from_json(content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Normalizer:
    """The normalizer whose `to_json()` and `tensors()` these are. Raises KeyError, TypeError or ValueError if they are not."""
    name = content["name"]
    if name not in NORMALIZERS:
        raise ValueError(f"unknown normalizer {name!r}")
    kind = WhiteningNormalizer if name == "whitening" else AffineNormalizer
    return kind.from_json(content, tensors)
