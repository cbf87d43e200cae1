"""A square plot of the plane as a PNG: frame, ticks, dots, lines and a legend, drawn large and then made small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowkit.data.files import replacing
from flowkit.points.window import Window

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Color = tuple[int, int, int]
SCALE = 3  # drawn so many times as large, for smooth edges
SIDE, LEFT, TOP, RIGHT, BOTTOM = 600, 56, 24, 24, 72  # of the frame and the room around it, in pixels
PAPER, FRAME, TEXT, GRAY = (255, 255, 255), (120, 120, 120), (70, 70, 70), (205, 205, 210)
# Eight colors that color-blind people can distinguish (Okabe and Ito, 2008). The yellow is darkened for white paper.
PALETTE: tuple[Color, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (90, 90, 90), (178, 160, 0),
)  # fmt: skip


class Plot:
    """Draws in the data's own coordinates; what lies outside of `window` is cut."""

    def __init__(self, window: Window) -> None:
        from PIL import Image, ImageDraw

        self.window = window
        self._legend: list[tuple[Color, str]] = []
        self._inside = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._inside)

    def dots(self, points: np.ndarray, color: Color, radius: float, alpha: float = 1.0) -> None:
        """Draw discs of `radius` pixels at points (N, 2). alpha: opacity of all discs together."""
        from PIL import Image, ImageDraw

        points = points[np.isfinite(points).all(axis=1)]
        mask = Image.new("L", self._inside.size, 0)
        draw, reach, shade = ImageDraw.Draw(mask), radius * SCALE, round(255 * alpha)
        for x, y in self._pixels(points).tolist():
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=shade)
        self._inside.paste(color, mask=mask)

    def line(self, points: np.ndarray, colors: Sequence[Color], width: float) -> None:
        """Draw a polyline through points (T, 2), T - 1 pieces of `width` pixels, each in its color."""
        if not np.isfinite(points).all():
            return
        pixels = [tuple(place) for place in self._pixels(points).tolist()]
        for start, stop, color in zip(pixels, pixels[1:], colors, strict=False):
            self._draw.line((start, stop), fill=color, width=round(width * SCALE))

    def legend(self, color: Color, text: str) -> None:
        """Name a color below the plot."""
        self._legend.append((color, text))

    def save(self, path: Path | str) -> Path:
        """Write the PNG. Raises UserError where that cannot be done."""
        from PIL import Image

        page = Image.new("RGB", (SCALE * (LEFT + SIDE + RIGHT), SCALE * (TOP + SIDE + BOTTOM)), PAPER)
        page.paste(self._inside, (LEFT * SCALE, TOP * SCALE))
        self._furnish(page)
        small = page.resize((page.width // SCALE, page.height // SCALE), Image.Resampling.BOX)
        with replacing(Path(path)) as partial:
            small.save(partial, "PNG")
        return Path(path)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        # PIL takes no number beyond an int; what is so far off is as well a little off.
        return (self.window.place(np.asarray(points, np.float64)) * (SIDE * SCALE)).clip(-1e5, 1e5)

    @cached_property
    def _font(self):
        from PIL import ImageFont

        return ImageFont.load_default(13 * SCALE)

    def _furnish(self, page: Image.Image) -> None:
        from PIL import ImageDraw

        draw = ImageDraw.Draw(page)
        left, top, right, bottom = (SCALE * edge for edge in (LEFT, TOP, LEFT + SIDE, TOP + SIDE))
        draw.rectangle((left, top, right, bottom), outline=FRAME, width=SCALE)
        tick, gap = 5 * SCALE, 9 * SCALE
        for value, share in ticks(self.window.left, self.window.side):
            x = left + share * (right - left)
            draw.line((x, bottom, x, bottom + tick), fill=FRAME, width=SCALE)
            draw.text((x, bottom + gap), f"{value:g}", fill=TEXT, font=self._font, anchor="mt")
        for value, share in ticks(self.window.bottom, self.window.side):
            y = bottom - share * (bottom - top)
            draw.line((left - tick, y, left, y), fill=FRAME, width=SCALE)
            draw.text((left - gap, y), f"{value:g}", fill=TEXT, font=self._font, anchor="rm")
        self._draw_legend(draw)

    def _draw_legend(self, draw: ImageDraw.ImageDraw) -> None:
        at, y, radius = LEFT * SCALE, SCALE * (TOP + SIDE + BOTTOM - 22), 5 * SCALE
        for color, text in self._legend:
            draw.ellipse((at, y - radius, at + 2 * radius, y + radius), fill=color)
            draw.text((at + 3 * radius, y), text, fill=TEXT, font=self._font, anchor="lm")
            at += 3 * radius + round(self._font.getlength(text)) + 4 * radius


def ticks(low: float, side: float) -> list[tuple[float, float]]:
    """Return four to eight round numbers in [low, low + side], each with its position as a fraction of the side."""
    step = 10.0 ** math.floor(math.log10(side / 4))
    step *= next(factor for factor in (5, 2, 1) if side / (factor * step) >= 4)
    first = math.ceil(low / step)
    values = [number * step for number in range(first, math.floor((low + side) / step) + 1)]
    return [(round(value, 10), (value - low) / side) for value in values]
