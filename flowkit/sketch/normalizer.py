"""The normalizer of drawings with pen strokes: coordinates are scaled, signs stay signs."""

from __future__ import annotations

import numpy as np

from flowkit.data.normalizers import AffineNormalizer
from flowkit.data.normalizers.affine import Affine
from flowkit.sketch.strokes import EXISTS, exists

CHUNK = 1 << 16  # rows at a time


class Strokes(Affine):
    """One mean for x, one for y, and one standard deviation, over the cubics that exist. The signs stay -1 and 1."""

    def fit(self, x: np.ndarray, rows: np.ndarray) -> AffineNormalizer:
        """x: (N, S, 8 or 10)."""
        count, total, square = 0, np.zeros(2), np.zeros(2)
        center = np.zeros(2)
        for start in range(0, len(rows), CHUNK):
            part = x[rows[start : start + CHUNK]]
            points = part[exists(part)][:, :EXISTS].reshape(-1, 2).astype(np.float64)
            if not count and len(points):
                center = points.mean(axis=0)  # sums of squares about a point nearby do not cancel
            count += len(points)
            total += (points - center).sum(axis=0)
            square += ((points - center) ** 2).sum(axis=0)
        mean = total / max(count, 1)
        scale = float(np.sqrt((square / max(count, 1) - mean**2).mean())) or 1.0
        signs = x.shape[-1] - EXISTS
        shift = np.concatenate([np.tile(center + mean, EXISTS // 2), np.zeros(signs)])
        return AffineNormalizer(self.tag(), shift, np.concatenate([np.full(EXISTS, scale), np.ones(signs)]))
