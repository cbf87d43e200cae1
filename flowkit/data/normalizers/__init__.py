"""Normalizers bring data to about zero mean and unit variance, as a flow from unit noise wants it, and back.

Fitted once on the training rows alone; the statistics travel with the checkpoint.
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
    """The normalizer whose `to_json()` and `tensors()` these are. Raises KeyError, TypeError, ValueError or UserError if not."""
    return find("normalizer", content["name"]).fitted.from_json(content, tensors)
