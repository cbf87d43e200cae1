"""Auxiliary losses on a predicted sketch: x (B, S, 8 or 10) on the canvas [-1, 1] -> (B,), the mean over its cubics.

Gradients are finite everywhere, including at straight lines, zero-length chords and strokes that are a single point.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from flowkit.domain import auxiliary_loss
from flowkit.sketch.soft_raster import soft_raster
from flowkit.sketch.strokes import EXISTS
from flowkit.sketch.validity import DEGENERATE

RASTER_SIZES = (64, 32, 16)  # pixels; each is a blurred half of the one before
RASTER_CHORDS = 12  # per cubic; the chords of a half circle of 20 pixels are 0.1 of a pixel off


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


@auxiliary_loss("sketch")
def raster(x: Tensor, target: Tensor) -> Tensor:
    """The difference between the pictures of the predicted sketch and of the real one. 0 if they are equal, at most 1.

    For pictures a and b it is |a - b|^2 / (|a|^2 + |b|^2), the mean over pictures of 64, 32 and 16 pixels. The sharp one sees
    lines that are a pixel off. The blurred ones pull at lines that do not overlap yet. Order and direction of strokes do not
    matter. Gradients reach the sign that says whether a cubic exists.
    """
    width = 2 / RASTER_SIZES[0]  # one pixel: thinner lines would be fainter, and no sharper
    picture = soft_raster(x, RASTER_SIZES[0], stroke_width=width, chords=RASTER_CHORDS)
    with torch.no_grad():
        real = soft_raster(target, RASTER_SIZES[0], stroke_width=width, chords=RASTER_CHORDS)
    both, values = torch.stack([picture, real], dim=1), []
    for number in range(len(RASTER_SIZES)):
        if number:
            both = avg_pool2d(both, 4, stride=2, padding=1)
        a, b = both.unbind(1)
        ink = (a.square() + b.square()).sum((-2, -1)).clamp_min(torch.finfo(a.dtype).tiny)
        values.append((a - b).square().sum((-2, -1)) / ink)
    return torch.stack(values).mean(0)


def _control_points(x: Tensor) -> Tensor:
    return x[..., :EXISTS].unflatten(-1, (4, 2))


def _mean(values: Tensor, x: Tensor) -> Tensor:
    """The mean (B,) of values (B, S) over the cubics that exist."""
    if x.shape[-1] == EXISTS:
        return values.mean(-1)
    there = (x[..., EXISTS] > 0).to(values.dtype)
    return (values * there).sum(-1) / there.sum(-1).clamp_min(1)
