"""A differentiable picture of a sketch in plain torch: ink on a grid of pixels, with gradients to every control point.

A cubic is drawn as short chords. A pixel's ink depends on its distance to the nearest chord of each cubic that passes nearby,
so work and memory grow with the length of the lines, not with strokes times pixels. Which chord is nearest, and where on it,
is found without gradients: that place minimizes the distance, so the gradient equals that for a fixed place (envelope theorem).
Without the gradient of the division, a chord of length 0 causes no problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from flowkit.sketch.strokes import EXISTS
from flowkit.sketch.svg_write import STROKE_WIDTH

SOFT = (5 / 12) ** 0.5  # pixels; half the width of an edge. The edge then has the variance of a square pixel's
FARTHEST = 10.0  # canvas units; coordinates beyond are moved here, so that nothing overflows
FULL = 1 - 1e-6  # the most ink of one cubic: under full ink no other cubic would get a gradient
ENTRIES = 1 << 20  # pairs of a chord and a pixel near it that are looked at together


def soft_raster(
    x: Tensor,
    size: int = 64,
    *,
    stroke_width: float | Tensor = STROKE_WIDTH,
    presence: Tensor | None = None,
    chords: int = 16,
) -> Tensor:
    """Draw sketches x (B, S, 8 or 10) on the canvas [-1, 1]: (B, size, size) ink from 0 to 1, rows downward.

    stroke_width: in canvas units, a number or (B, S). presence: (B, S) from 0 to 1, how much of each cubic's ink counts; by
    default 1, and for rows (S, 10) `presence_of(x)`. chords: straight pieces per cubic.

    Where lines cross, ink is 1 - prod(1 - ink of each cubic). Gradients reach coordinates, widths and presence, and are finite
    for any finite x. A cubic has none where its ink does not change: far from all pixels.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()  # a pixel's coordinate needs more than 8 bits
    batch, strokes = x.shape[:2]
    presence = presence_of(x) if presence is None else presence
    half = size / 4 * torch.as_tensor(stroke_width, dtype=x.dtype, device=x.device).expand(batch, strokes).reshape(-1)
    # In pixels, with the center of the first one at 0.
    control = (x[..., :EXISTS].nan_to_num(FARTHEST).clamp(-FARTHEST, FARTHEST).reshape(-1, 4, 2) + 1) * (size / 2) - 0.5
    with torch.no_grad():
        cubic, pixel, weights = _near(control, half + SOFT, size, chords)
    place = (weights[..., None] * control.index_select(0, cubic)).sum(1)
    at = torch.stack([pixel % size, pixel // size], dim=1).to(x.dtype)
    half = half.index_select(0, cubic)
    distance = torch.linalg.vector_norm(at - place, dim=1)  # its gradient at 0 is 0, where sqrt's is infinite
    ink = _edge(half - distance) - _edge(-half - distance)
    clear = torch.log1p(-FULL * presence.reshape(-1).index_select(0, cubic) * ink)
    picture = cubic.div(strokes, rounding_mode="floor") * (size * size) + pixel
    total = torch.zeros(batch * size * size, dtype=x.dtype, device=x.device).index_add(0, picture, clear)
    return -torch.expm1(total).view(batch, size, size)


def presence_of(x: Tensor) -> Tensor:
    """x: (B, S, 8 or 10) -> (B, S) from 0 to 1: linear in the sign that says whether a cubic exists, 1 without signs."""
    return ((x[..., EXISTS] + 1) / 2).clamp(0, 1) if x.shape[-1] > EXISTS else torch.ones_like(x[..., 0])


def _edge(inside: Tensor) -> Tensor:
    """The share of a pixel that is inside, by the distance of its center to the edge, in pixels: 0 to 1, smooth."""
    u = (inside / (2 * SOFT) + 0.5).clamp(0, 1)
    return u * u * (3 - 2 * u)


def _near(control: Tensor, reach: Tensor, size: int, chords: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the pixels within `reach` (C,) of cubics (C, 4, 2), and the nearest point of the cubic for each.

    Return (E,) cubic, (E,) pixel and (E, 4) the weights of the control points whose sum is that point.
    """
    basis = _bernstein(chords, control.dtype, control.device)
    line = basis @ control
    start, step = line[:, :-1], line[:, 1:] - line[:, :-1]
    low = torch.minimum(line[:, :-1], line[:, 1:]) - reach[:, None, None]
    high = torch.maximum(line[:, :-1], line[:, 1:]) + reach[:, None, None]
    low, high = low.ceil().clamp_(0, size).long(), high.floor().clamp_(-1, size - 1).long() + 1
    wide, tall = (high - low).clamp_min_(0).unbind(-1)
    squared = step.square().sum(-1).clamp_min_(torch.finfo(step.dtype).tiny)
    # One row per chord, since gathering rows is what takes the time.
    geometry = torch.cat([start, step, squared[..., None]], dim=-1)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for first, last in _groups((wide * tall).sum(1)):
        part = slice(first, last)
        # Pixels are numbered inside the box around their cubic, so that the memory needed is that of the boxes.
        left, top = low[part].amin(1).unbind(1)
        right, bottom = high[part].amax(1).unbind(1)
        columns = (right - left).clamp_min_(0)
        cells = columns * (bottom - top).clamp_min_(0)
        offset = cells.cumsum(0) - cells
        counts = (wide[part] * tall[part]).flatten()
        chord = torch.repeat_interleave(counts)
        # Per chord: its entries so far, its columns, its first pixel, the cubic's columns, the key of the first pixel.
        x, y = low[part].unbind(2)
        key = offset[:, None] + (y - top[:, None]) * columns[:, None] + x - left[:, None]
        so_far = (counts.cumsum(0) - counts).view_as(x)
        rows = torch.stack([so_far, wide[part], x, y, columns[:, None].expand_as(x), key], dim=-1).flatten(0, 1)
        so_far, across, x, y, columns, key = rows.index_select(0, chord).unbind(1)
        inside = torch.arange(len(chord), device=chord.device) - so_far
        down = inside.div(across, rounding_mode="floor")
        inside -= down * across
        x, y, key = x + inside, y + down, key + down * columns + inside
        start_x, start_y, step_x, step_y, length2 = geometry[part].flatten(0, 1).index_select(0, chord).unbind(1)
        to_x, to_y = x - start_x, y - start_y
        along = ((to_x * step_x + to_y * step_y) / length2).clamp_(0, 1)
        gap = (to_x - along * step_x).square_() + (to_y - along * step_y).square_()
        close = (gap < (reach[part] ** 2).repeat_interleave(chords).index_select(0, chord)).nonzero().squeeze(1)
        # The nearest chord. Of those equally near the last, so that the choice does not depend on the device.
        key, gap = key.index_select(0, close), gap.index_select(0, close)
        least = gap.new_full((int(cells.sum()),), float("inf")).scatter_reduce_(0, key, gap, "amin")
        nearest = close.where(gap <= least.index_select(0, key), -1)
        chosen = close.new_full((len(least),), -1).scatter_reduce_(0, key, nearest, "amax")
        chosen = chosen[chosen >= 0]
        chord, along = chord.index_select(0, chosen), along.index_select(0, chosen)[:, None]
        cubic = chord.div(chords, rounding_mode="floor")
        piece = chord - cubic * chords
        weights = torch.lerp(basis.index_select(0, piece), basis.index_select(0, piece + 1), along)
        found.append((cubic + first, y.index_select(0, chosen) * size + x.index_select(0, chosen), weights))
    cubics, pixels, weights = zip(*found, strict=True)
    return torch.cat(cubics), torch.cat(pixels), torch.cat(weights)


def _groups(entries: Tensor) -> Iterator[tuple[int, int]]:
    """Split cubics into runs [first, last) of at most `ENTRIES` entries, or one cubic."""
    total, first = 0, 0
    counts = entries.tolist()
    for number, count in enumerate(counts):
        if total + count > ENTRIES and number > first:
            yield first, number
            total, first = 0, number
        total += count
    yield first, len(counts)


@lru_cache(maxsize=8)
def _bernstein(chords: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights (chords + 1, 4) of a cubic's control points at evenly spaced parameters."""
    t = torch.linspace(0, 1, chords + 1, dtype=dtype, device=device)
    s = 1 - t
    return torch.stack([s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t], dim=1)
