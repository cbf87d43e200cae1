"""Probability paths by name: how a point moves from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from typing import Any

from flowkit.flow.choices import Choice, choose
from flowkit.flow.paths.base import CLIP, QUANTITIES, Path, expand
from flowkit.flow.paths.bridges import Bridge, ConstantBridge, SchrodingerBridge
from flowkit.flow.paths.gaussian import Cosine, GaussianPath, Linear, VariancePreserving
from flowkit.flow.paths.spherical import Spherical

PATHS = {
    "linear": Linear,
    "cosine": Cosine,
    "vp": VariancePreserving,
    "icfm": ConstantBridge,
    "schrodinger_bridge": SchrodingerBridge,
    "spherical": Spherical,
}

__all__ = [
    "CLIP",
    "PATHS",
    "QUANTITIES",
    "Bridge",
    "ConstantBridge",
    "Cosine",
    "GaussianPath",
    "Linear",
    "Path",
    "SchrodingerBridge",
    "Spherical",
    "VariancePreserving",
    "expand",
    "get_path",
]


def get_path(choice: Choice, **settings: Any) -> Path:
    """A path by name, or by a table with its settings. Raises UserError."""
    return choose("path", PATHS, choice, settings)
