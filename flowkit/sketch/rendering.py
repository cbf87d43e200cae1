"""Pictures of sketches as a person may have drawn and scanned them, as conditions where no photos exist.

A picture shows its drawing in a random ink on a random paper, slightly displaced. The target of training stays the drawing
itself, so the displacements are small: no point of the canvas moves by more than MOST_MOVED.
"""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING

import numpy as np

from flowkit.rng import key
from flowkit.sketch.raster import short_lines
from flowkit.sketch.strokes import EXISTS
from flowkit.sketch.svg_write import STROKE_WIDTH

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 224  # pixels, the input of most image encoders
WIDTHS = (0.011, 0.045)  # of lines, in canvas units: 1.2 to 5 of 224 pixels
# The largest displacements, in canvas units (the canvas is 2 wide) and degrees.
SHIFT, SCALE, ROTATION, WOBBLE = 0.03, 0.03, 1.5, 0.012
WAVES = 3  # of which a wobble is the sum, in x and in y
MOST_MOVED = 0.15  # canvas units: the bound of all displacements together, at a corner of the canvas
CONTRAST = 60  # gray levels that ink is darker than its paper in every channel, at least, before light and texture


def clean(sketch: np.ndarray, size: int = SIZE, *, stroke_width: float = STROKE_WIDTH) -> Image:
    """Return a gray picture of `sketch` (S, 8 or 10), in canvas units, in black on white, without any distortion.

    stroke_width: in canvas units, where the canvas is 2 wide.
    """
    from PIL import Image

    return Image.fromarray(np.round(255 * (1 - ink(sketch, size, stroke_width))).astype(np.uint8))


def rendered(sketch: np.ndarray, seed: int, *place: str | int, size: int = SIZE) -> Image:
    """Return an RGB picture of `sketch` (S, 8 or 10), in canvas units, with random pen, paper, light and displacements.

    place: what identifies the picture, such as the row and the number of the picture. The same seed and place give the same
    picture on every machine, up to the rounding of single gray levels.
    """
    from PIL import Image

    # Uniform numbers only, because their stream is the least likely to change between versions of numpy.
    rng = np.random.Generator(np.random.Philox(key(seed, "rendering", *place)))
    between = lambda low, high: low + (high - low) * float(rng.random())  # noqa: E731
    moved, width = displaced(sketch, rng), WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** between(0, 1)
    covered = ink(moved, size, max(width, 2.4 / size))  # 1.2 pixels, so that lines can be seen in small pictures too
    paper = _color(between(0, 1), between(0, 0.1) * between(0, 1), between(0.84, 1))
    # Half of the pens are black or gray, the others colored. The palest are pencils.
    tinted = rng.random() < 0.5
    pen = _color(
        between(0, 1), between(0.3, 1) if tinted else 0.0, between(0.03, 0.6) if tinted else between(0.03, 0.5)
    )
    pen = np.minimum(pen, paper.min() - CONTRAST / 255)  # yellow on white would be hard to see
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle, slope, vignette = between(0, 2 * math.pi), between(0, 0.06), between(0, 0.04)
    light = 1 - slope * (1 + (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)) - vignette * (x * x + y * y)
    grain = between(0, 0.04) * (rng.random((size, size), np.float32) - 0.5)
    rough = 1 - between(0, 0.3) * rng.random((size, size), np.float32)  # a pencil does not cover all of the paper
    page = paper.astype(np.float32) - (paper - pen).astype(np.float32) * (covered * rough)[..., None]
    page = page * light[..., None] + grain[..., None]
    return Image.fromarray(np.round(255 * page.clip(0, 1)).astype(np.uint8))


def displaced(sketch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `sketch` (S, 8 or 10) shifted, scaled, rotated and bent by long waves, all by little (MOST_MOVED)."""
    sign = lambda *shape: 2 * rng.random(shape) - 1  # noqa: E731
    shift, scale, angle = SHIFT * sign(2), 1 + SCALE * sign(1), math.radians(ROTATION) * float(sign(1)[0])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = np.array(sketch, np.float64)
    points = moved[:, :EXISTS].reshape(-1, 2)
    # At most one and a half waves across the canvas. Control points move like points, since a wave is long next to a cubic.
    waves, phases, heights = (
        1.5 * math.pi * sign(2, WAVES, 2),
        math.pi * sign(2, WAVES),
        WOBBLE / WAVES * sign(2, WAVES),
    )
    bend = np.einsum("ak,nak->na", heights, np.sin(np.einsum("akd,nd->nak", waves, points) + phases))
    moved[:, :EXISTS] = (scale * (points + bend) @ turn + shift).reshape(-1, EXISTS)
    return moved


def ink(sketch: np.ndarray, size: int, stroke_width: float) -> np.ndarray:
    """Return how much of each pixel the lines of `sketch` (S, 8 or 10) cover: (size, size) float32 from 0 to 1.

    The cover of a pixel follows from the distance of its center to the nearest line, which is exact for straight lines along
    an axis. It takes about a tenth of the time of `rasterize`.
    """
    radius = stroke_width * size / 4  # pixels: the canvas is 2 wide, the radius half the width
    faint, radius = min(2 * radius, 1.0), max(radius, 0.5)  # a line thinner than a pixel is a paler line of a pixel
    lines = (short_lines(sketch[None], 6 / size)[0] + 1) * (size / 2) - 0.5  # pixel centers at the integers
    reach = radius + 0.5
    low, high = lines.min(axis=1), lines.max(axis=1)
    seen = ((high > -reach) & (low < size - 1 + reach)).all(axis=1)
    start, along = lines[seen, 0].astype(np.float32), (lines[seen, 1] - lines[seen, 0]).astype(np.float32)
    corner = np.ceil(low[seen] - reach).astype(np.int64)
    if not len(corner):
        return np.zeros((size, size), np.float32)
    window = np.arange(int(np.ceil(np.abs(along).max() + 2 * reach)))
    # Each pixel of a window around each segment: its place, and its distance to the segment.
    px, py = corner[:, :1, None] + window, corner[:, 1:, None] + window[:, None]
    dx, dy = (px - start[:, :1, None]).astype(np.float32), (py - start[:, 1:, None]).astype(np.float32)
    ax, ay = along[:, 0, None, None], along[:, 1, None, None]
    share = ((dx * ax + dy * ay) / np.maximum(ax * ax + ay * ay, 1e-12)).clip(0, 1)
    cover = (reach - np.hypot(dx - share * ax, dy - share * ay)).clip(0, 1)
    inside = (cover > 0) & (px >= 0) & (px < size) & (py >= 0) & (py < size)
    covered = np.zeros(size * size, np.float32)
    np.maximum.at(covered, (py * size + px)[inside], cover[inside])
    return faint * covered.reshape(size, size)


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))
