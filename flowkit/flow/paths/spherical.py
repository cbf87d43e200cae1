"""The spherical path: along great circles, for vectors with nearly equal norms, such as normalized embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.flow.paths.base import CLIP, Path, expand

TINY = 1e-6  # lower limit of norms and angles (radians)


class Spherical(Path):
    """The direction turns at a constant rate along the geodesic from x0 to x1; the norm changes linearly.

    Flow matching with geodesics (arXiv 2302.03660) on a sphere, times a line of norms. Noise in many dimensions has nearly
    constant norm, too. A row is one vector, whatever its shape. Opposite vectors have no unique geodesic: within 1e-6 radians
    of that, one of the two directions is almost ignored. The velocity determines the data, by following the geodesic to its
    end. Nothing else converts, since a mean over geodesics is not on one of them, and there is no score.
    """

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        unit0, unit1, norm0, norm1, angle, sine = _ends(x0, x1)
        t = expand(t, x1)
        direction = (torch.sin((1 - t) * angle) * unit0 + torch.sin(t * angle) * unit1) / sine
        return torch.lerp(norm0, norm1, t) * direction

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return norm' direction + norm direction'."""
        unit0, unit1, norm0, norm1, angle, sine = _ends(x0, x1)
        t = expand(t, x1)
        direction = (torch.sin((1 - t) * angle) * unit0 + torch.sin(t * angle) * unit1) / sine
        turn = angle * (torch.cos(t * angle) * unit1 - torch.cos((1 - t) * angle) * unit0) / sine
        return (norm1 - norm0) * direction + torch.lerp(norm0, norm1, t) * turn

    def converts(self, source: str, to: str) -> bool:
        return source == to or (source, to) == ("velocity", "data")

    def convert(self, value: Tensor, x_t: Tensor, t: Tensor, source: str, to: str, clip: float = CLIP) -> Tensor:
        if source == to or not self.converts(source, to):
            return super().convert(value, x_t, t, source, to, clip)
        norm = _norm(x_t)
        direction = x_t / norm
        growth = _inner(value, direction)
        turn = (value - growth * direction) / norm
        rate, left = _norm(turn), 1 - expand(t, x_t)
        end = torch.cos(left * rate) * direction + torch.sin(left * rate) * turn / rate
        return (norm + left * growth) * end


def _ends(x0: Tensor, x1: Tensor) -> tuple[Tensor, ...]:
    """Return directions, norms, the angle between the directions and its sine, shaped to multiply x (B, ...)."""
    norm0, norm1 = _norm(x0), _norm(x1)
    unit0, unit1 = x0 / norm0, x1 / norm1
    # Use the half-angle: the arc cosine of the inner product loses half of its digits near its ends.
    angle = 2 * torch.atan2(_norm(unit1 - unit0, 0.0), _norm(unit1 + unit0, 0.0))
    angle = angle.clamp(TINY, torch.pi - TINY)
    return unit0, unit1, norm0, norm1, angle, torch.sin(angle)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return expand((a * b).flatten(1).sum(1), a)


def _norm(x: Tensor, least: float = TINY) -> Tensor:
    return expand(x.flatten(1).norm(dim=1).clamp_min(least), x)
