"""Auxiliary losses on a predicted sketch: x (B, S, 8 or 10) on the canvas [-1, 1] -> (B,), the mean over its cubics.

Gradients are finite everywhere, including at straight lines, zero-length chords and strokes that are a single point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.domain import auxiliary_loss
from flowkit.sketch.strokes import EXISTS
from flowkit.sketch.validity import DEGENERATE


@auxiliary_loss("sketch")
def smoothness(x: Tensor) -> Tensor:
    """The mean distance of the inner control points from the chord, the segment P0 P3. It penalizes all curvature."""
    points = _control_points(x)
    start, inner, end = points[..., :1, :], points[..., 1:3, :], points[..., 3:, :]
    chord = end - start
    with torch.no_grad():
        # Position of the nearest point on the chord. It minimizes the distance, so the gradient equals that for a fixed
        # position (envelope theorem). Without the gradient of this division, a chord of length 0 causes no problem.
        length_squared = chord.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        place = (((inner - start) * chord).sum(-1, keepdim=True) / length_squared).clamp(0, 1)
    # vector_norm's gradient at 0 is 0, where sqrt's is infinite.
    return _mean(torch.linalg.vector_norm(inner - start - place * chord, dim=-1).mean(-1), x)


@auxiliary_loss("sketch")
def bending(x: Tensor) -> Tensor:
    """The mean squared second difference of the control points. 0 where they are straight and evenly spaced."""
    points = _control_points(x)
    second = points[..., :2, :] - 2 * points[..., 1:3, :] + points[..., 2:, :]
    return _mean(second.square().sum(-1).mean(-1), x)


@auxiliary_loss("sketch")
def degenerate(x: Tensor) -> Tensor:
    """The penalty on strokes that shrink to a dot. relu(0.05 - largest distance between two control points)^2."""
    points = _control_points(x)
    between = torch.linalg.vector_norm(points[..., :, None, :] - points[..., None, :, :], dim=-1)
    extent = between.amax((-2, -1))
    return _mean(torch.relu(DEGENERATE - extent).square(), x)


def _control_points(x: Tensor) -> Tensor:
    return x[..., :EXISTS].unflatten(-1, (4, 2))


def _mean(values: Tensor, x: Tensor) -> Tensor:
    """The mean (B,) of values (B, S) over the cubics that exist."""
    if x.shape[-1] == EXISTS:
        return values.mean(-1)
    there = (x[..., EXISTS] > 0).to(values.dtype)
    return (values * there).sum(-1) / there.sum(-1).clamp_min(1)
