"""Probability paths from noise (t = 0) to data (t = 1)."""

from flowkit.flow.paths.base import CLIP, QUANTITIES, Path, expand, over_tokens
from flowkit.flow.paths.bridges import Bridge, ConstantBridge, SchrodingerBridge
from flowkit.flow.paths.gaussian import Cosine, GaussianPath, Linear, VariancePreserving, gaussian_paths
from flowkit.flow.paths.spherical import Spherical

__all__ = ["CLIP", "QUANTITIES", "Bridge", "ConstantBridge", "Cosine", "GaussianPath", "Linear", "Path", "SchrodingerBridge",
           "Spherical", "VariancePreserving", "expand", "gaussian_paths", "over_tokens"]  # fmt: skip
