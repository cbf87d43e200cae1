"""Doodles: procedurally generated line drawings, for training a first model without any data file.

Every class is a function that draws a batch with a `Pen`: contour first, then details, each part always in the same
slots. If an optional part is absent, its slots hold pieces of another line, so there are no empty strokes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from flowkit.data.dataset import Dataset
from flowkit.errors import UserError
from flowkit.sketch.doodles.animals import ANIMALS
from flowkit.sketch.doodles.pen import Pen, Slots, allot, fill
from flowkit.sketch.doodles.plants import PLANTS
from flowkit.sketch.doodles.sea_animals import SEA_ANIMALS
from flowkit.sketch.doodles.things import THINGS
from flowkit.sketch.doodles.vehicles import VEHICLES
from flowkit.sketch.strokes import CONTINUES, EXISTS, tidy

DRAWINGS: dict[str, Callable[[Pen], None]] = dict(
    sorted({**ANIMALS, **SEA_ANIMALS, **PLANTS, **THINGS, **VEHICLES}.items())
)
FLIPPED = {"bird", "car", "cat", "fish", "sailboat", "snail", "whale"}  # mirrored at random
EDGE = 0.97  # largest absolute coordinate of a control point


def generate_doodles(num_samples: int, seed: int, num_strokes: int | None = 32) -> Dataset:
    """Return `num_samples` labeled doodles, with balanced classes, in random order: (N, num_strokes, 8).

    num_strokes: the number of cubics that every doodle is cut into. None keeps their pen strokes, as rows (N, 32, 10); see
    `flowkit.sketch.strokes`. The same arguments give the same data. Raises UserError if `num_samples` is below 1, or if
    `num_strokes` is too small for the class with the most strokes.
    """
    least = max(len(_slots(name, None).owner) for name in DRAWINGS)
    if num_strokes is not None and num_strokes < least:
        raise UserError(f"num_strokes = {num_strokes}: expected at least {least} strokes for doodles")
    if num_samples < 1:
        raise UserError(f"num_samples = {num_samples}: expected at least 1")
    names = tuple(DRAWINGS)
    rng = np.random.default_rng([abs(seed), len(names)])
    labels = rng.permutation(np.arange(num_samples) % len(names))
    x = np.empty((num_samples, num_strokes or least, 8 if num_strokes else 10), np.float32)
    for number, name in enumerate(names):
        rows = np.flatnonzero(labels == number)
        if len(rows):
            rng = np.random.default_rng([abs(seed), number])
            drawn = (
                draw_class(name, rng, len(rows), num_strokes)
                if num_strokes
                else draw_strokes(name, rng, len(rows), least)
            )
            x[rows] = drawn
    if num_strokes is None:
        info = {"source": "pen_doodles", "seed": seed}
    else:
        info = {"source": "doodles", "seed": seed, "num_strokes": num_strokes}
    return Dataset("sketch", x, labels.astype(np.int64), class_names=names, info=info)


def draw_class(name: str, rng: np.random.Generator, count: int, num_strokes: int) -> np.ndarray:
    """Return `count` doodles of one class, (count, num_strokes, 8) float32."""
    pen = Pen(rng, count)
    DRAWINGS[name](pen)
    sketch = fill(_slots(name, num_strokes), *pen.strokes())
    sketch = _pose(pen, sketch, flip=name in FLIPPED)
    return np.stack([np.real(sketch), np.imag(sketch)], axis=-1).reshape(count, num_strokes, 8).astype(np.float32)


def draw_strokes(name: str, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Return `count` doodles of one class with their pen strokes, (count, size, 10) float32."""
    pen = Pen(rng, count)
    DRAWINGS[name](pen)
    cubics, present = pen.strokes()
    # While the drawing is posed, absent cubics stand where a present one does, so that they do not change its extent.
    some = present.argmax(axis=1)
    posed = np.where(present[..., None], cubics, cubics[np.arange(count), some][:, None])
    posed = _pose(pen, posed, flip=name in FLIPPED)
    x = np.zeros((count, size, 10), np.float32)
    x[:, : posed.shape[1], :EXISTS] = np.stack([np.real(posed), np.imag(posed)], axis=-1).reshape(count, -1, EXISTS)
    x[..., EXISTS:] = -1
    x[:, : posed.shape[1], EXISTS] = np.where(present, 1, -1)
    starts = np.cumsum([0, *(part.path.shape[1] for part in pen.parts)])[:-1]
    x[:, : posed.shape[1], CONTINUES] = np.where(np.isin(np.arange(posed.shape[1]), starts), -1, 1)
    return tidy(x)


@lru_cache
def _slots(name: str, num_strokes: int | None) -> Slots:
    """Return the slots of a class, computed from a fixed set of drawings. num_strokes: None for one slot per cubic."""
    pen = Pen(np.random.default_rng(0), 64)
    DRAWINGS[name](pen)
    return allot(pen.parts, num_strokes or sum(part.path.shape[1] for part in pen.parts))


def _pose(pen: Pen, sketch: np.ndarray, flip: bool) -> np.ndarray:
    """Apply a random warp, stretch, shear, rotation, flip, scale and shift to each drawing (B, S, 4), on the canvas."""

    def each(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    for _ in range(2):  # a smooth warp
        turn = np.exp(1j * pen.between(0, 2 * np.pi))
        push = np.exp(1j * pen.between(0, 2 * np.pi)) * pen.between(0.0, 0.022)
        phase, pace = pen.between(0, 2 * np.pi), pen.between(2.0, 4.5)
        sketch = sketch + each(push) * np.sin((sketch * each(turn)).real * each(pace) + each(phase))
    x, y = np.real(sketch), np.imag(sketch)
    stretch, lean = pen.between(0.93, 1.075), pen.between(-0.06, 0.06)
    x, y = x * each(stretch) + y * each(lean), y / each(stretch)
    if flip:
        x = x * each(pen.choice(-1.0, 1.0))
    sketch = (x + 1j * y) * each(pen.between(0.92, 1.13) * np.exp(1j * np.radians(pen.between(-7, 7))))
    sketch = sketch + each(pen.between(-0.06, 0.06) + 1j * pen.between(-0.06, 0.06))
    return _keep_inside(sketch)


def _keep_inside(sketch: np.ndarray) -> np.ndarray:
    """Move drawings that extend beyond the canvas, and shrink them if necessary."""
    axes = []
    for p in (np.real(sketch), np.imag(sketch)):
        low, high = p.min(axis=(1, 2)), p.max(axis=(1, 2))
        middle, half = (low + high) / 2, (high - low) / 2
        axes.append((p, middle, half))
    scale = np.minimum(1.0, EDGE / np.maximum(axes[0][2], axes[1][2]))
    moved = []
    for p, middle, half in axes:
        room = EDGE - half * scale
        moved.append((p - middle[:, None, None]) * scale[:, None, None] + middle.clip(-room, room)[:, None, None])
    return moved[0] + 1j * moved[1]
