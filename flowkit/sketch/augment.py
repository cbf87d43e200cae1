"""Random changes of drawings in training, of which the network is told, so that samples do not show them.

As in EDM (arXiv 2206.00364): the network gets the parameters of each change, and zeros for a drawing that was not changed. When
sampling it gets zeros. Moves of the picture are told as they are. Pen strokes that were reversed or moved in the drawing order
are told as shares: no picture changes, but the order of samples matters for completion and animation.

The numbers, in order: mirrored, cos(angle) - 1, sin(angle), log2(scale), shear, shift in x, shift in y, share of pen strokes
that are reversed, share in another place. The continuous ones are divided by the largest that the ranges allow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowkit.sketch.strokes import CONTINUES, EXISTS

if TYPE_CHECKING:
    from flowkit.recipe.data import Augment

PER_ROW = 7  # random numbers: whether to augment, mirror, rotation, scale, shear, two shifts


def draws(size: int) -> int:
    """Return the random numbers per row of `size` cubics: PER_ROW, and two for each possible pen stroke."""
    return PER_ROW + 2 * size


def augmented(x: Tensor, parts: Tensor, ranges: Augment, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return changed drawings (B, S, 8 or 10), and what the network is told of each (B, 9).

    x: (B, S, 8 or 10) in canvas units. parts: (B, S), as returned by `SketchDomain.parts`. uniform: (B, draws(S)). Cubics that
    are absent stay zeros, and joined ones stay joined. Points may leave the canvas.
    """
    row, reversal, jitter = uniform.split((PER_ROW, x.shape[1], x.shape[1]), dim=1)
    chosen, flip, turn, growth, slant, *shifts = row.unbind(1)
    chosen = chosen < ranges.rate
    drawn, shares = _strokes(x, parts, ranges, reversal, jitter)
    mirrored = (flip < ranges.mirror).to(x.dtype)
    angle, largest = _between(ranges.bounds("rotation"), turn, math.radians(1))
    cos, sin = angle.cos(), angle.sin()
    scale, widest = _between(tuple(map(math.log2, ranges.bounds("scale"))), growth)
    shear, steepest = _between(ranges.bounds("shear"), slant)
    (right, farthest), (down, _) = (_between(ranges.bounds("shift"), shift) for shift in shifts)
    numbers = [mirrored, _over(cos - 1, 1 - math.cos(largest)), _over(sin, math.sin(min(largest, math.pi / 2))),
               _over(scale, widest), _over(shear, steepest), _over(right, farthest), _over(down, farthest)]  # fmt: skip
    told = torch.cat((torch.stack(numbers, dim=1), shares), dim=1)
    # Mirror, scale, then shear, then rotate. A point at (x, y) goes to (a x + b y, c x + d y) plus the shift.
    factor = scale.exp2()
    across = factor * (1 - 2 * mirrored)
    a, b = cos * across, (cos * shear - sin) * factor
    c, d = sin * across, (sin * shear + cos) * factor
    px, py = drawn[..., 0:EXISTS:2], drawn[..., 1:EXISTS:2]
    a, b, c, d, right, down = (one.view(-1, 1, 1) for one in (a, b, c, d, right, down))
    moved = torch.stack((a * px + b * py + right, c * px + d * py + down), dim=-1).flatten(-2)
    signs = drawn[..., EXISTS:]
    if x.shape[-1] > EXISTS:
        moved = torch.where(signs[..., :1] > 0, moved, 0.0)
    changed = torch.cat((moved, signs), dim=-1)
    return torch.where(chosen[:, None, None], changed, x), told.masked_fill(~chosen[:, None], 0)


def _strokes(x: Tensor, parts: Tensor, ranges: Augment, reversal: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with pen strokes reversed and moved in the order, and the shares of both (B, 2)."""
    size = x.shape[1]
    here = torch.arange(size, device=x.device).expand_as(parts)
    there, part = parts >= 0, parts.clamp_min(0)
    count = parts.amax(1, keepdim=True) + 1
    turned = (reversal < ranges.reverse) & (here < count)  # by pen stroke
    place = here
    if ranges.reorder:
        wanted = torch.where(here < count, here + ranges.reorder * torch.special.ndtri(jitter), math.inf)
        place = wanted.argsort(dim=1, stable=True).argsort(dim=1)
    shares = torch.stack((turned, (place != here) & (here < count)), dim=2).sum(1) / count.clamp_min(1)
    back = turned.gather(1, part) & there  # by cubic
    keys = place.gather(1, part) * 2 * size + torch.where(back, -here, here)
    order = torch.where(there, keys, 2 * size**2 + here).argsort(dim=1)
    x, back, part = x.take_along_dim(order[..., None], 1), back.gather(1, order), part.gather(1, order)
    # Flipped, since a list as an index would be copied from the host at every update.
    forward = x[..., :EXISTS]
    points = torch.where(back[..., None], forward.unflatten(-1, (-1, 2)).flip(-2).flatten(-2), forward)
    signs = x[..., EXISTS:].clone()
    if x.shape[-1] > EXISTS:
        follows = (part[:, 1:] == part[:, :-1]) & there.gather(1, order)[:, 1:]
        signs[:, 1:, CONTINUES - EXISTS] = torch.where(follows, 1.0, -1.0)
        signs[:, 0, CONTINUES - EXISTS] = -1
    return torch.cat((points, signs), dim=-1), shares.to(x.dtype)


def _between(bounds: tuple[float, ...], uniform: Tensor, unit: float = 1.0) -> tuple[Tensor, float]:
    """Return uniform numbers between the bounds, times the unit, and the largest size that they can have."""
    low, high = (unit * bound for bound in bounds)
    return low + (high - low) * uniform, max(abs(low), abs(high))


def _over(value: Tensor, largest: float) -> Tensor:
    return value / largest if largest else torch.zeros_like(value)
