"""Normalizers: invertible maps of the data to about zero mean and unit variance, as a flow from unit noise needs.

Fitted once, on the training rows only. The statistics are saved with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowkit.components import find
from flowkit.data.normalizers.affine import AffineNormalizer
from flowkit.data.normalizers.base import Auto, Normalization, Normalizer
from flowkit.data.normalizers.whitening import WhiteningNormalizer

__all__ = ["AffineNormalizer", "Auto", "Normalization", "Normalizer", "WhiteningNormalizer", "normalizer_from_json"]


def normalizer_from_json(content: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Normalizer:
    """Restore a normalizer from `to_json()` and `tensors()`. Raises KeyError, TypeError, ValueError or UserError."""
    return find("normalizer", content["name"]).fitted.from_json(content, tensors)
