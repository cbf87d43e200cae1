"""Pictures that move: an SVG that draws itself, a GIF of the flow from noise to drawing, and strips of drawings."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np

from flowkit.data.files import replacing
from flowkit.errors import UserError
from flowkit.sketch.bezier import arc_length
from flowkit.sketch.raster import INK, PAGE, PAPER, picture
from flowkit.sketch.strokes import CONTINUES, pen_strokes, tidy
from flowkit.sketch.svg_write import STROKE_WIDTH, svg

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowkit.domain import Tell

HOLD = 1.5  # seconds that the finished drawing stays before an animation starts again
MAX_FRAMES = 50  # of a GIF
MAX_DRAWINGS = 16  # in one picture of the flow


def animated_svg(
    sketch: np.ndarray,
    *,
    title: str = "",
    seconds: float = 4.0,
    repeat: bool = False,
    size: int = 512,
    color: str = "black",
    background: str | None = "white",
) -> str:
    """Return an SVG text that draws `sketch` (S, 8 or 10), one pen stroke after the other, at constant speed.

    seconds: how long drawing takes. repeat: start again `HOLD` seconds after the end. size: width and height in user units.
    background: None for a transparent picture. The animation is CSS without a script. The drawing is complete where CSS
    animations are not supported, and for people who prefer reduced motion.
    """
    strokes = [stroke for stroke in pen_strokes(np.asarray(sketch, np.float64)) if np.isfinite(stroke).all()]
    lengths = np.array([arc_length(stroke).sum() for stroke in strokes])
    text = svg(sketch, title=title, size=size, color=color, background=background)
    if not strokes or not lengths.sum() > 0:
        return text
    head, *paths = text.split("<path ")
    cycle = seconds + (HOLD if repeat else 0)
    ends = np.cumsum(lengths) / lengths.sum() * (100 * seconds / cycle)  # percent
    starts = np.concatenate([[0.0], ends[:-1]])
    # Names and classes are global where several SVGs are in one page.
    name = f"d{zlib.crc32(text.encode('utf-8', 'replace')):08x}"
    rules = [f".{name}{{animation:{cycle:g}s linear {'infinite' if repeat else '1 both'}}}"]
    frames = []
    for number, (length, start, end) in enumerate(zip(lengths, starts, ends, strict=True)):
        rules.append(f".{name}-{number}{{animation-name:{name}-{number}}}")
        # Dashes are in units of the whole line (pathLength). The dash begins well before the line: with round caps, one that
        # ends exactly at the start of the line would leave a dot.
        hidden, drawn = ("stroke-dashoffset:1.05", "stroke-dashoffset:0") if length else ("opacity:0", "opacity:1")
        dashes = "stroke-dasharray:1.02 3;" if length else ""
        first = "0%" if number == 0 else f"0%,{start:.4g}%"
        frames.append(
            f"@keyframes {name}-{number}{{{first}{{{dashes}{hidden}}}{max(end, start + 0.01):.4g}%,100%{{{dashes}{drawn}}}}}"
        )
    moving = "\n".join(["<style>", "@media (prefers-reduced-motion:no-preference){", *rules, "}", *frames, "</style>"])
    classes = [f'<path class={quoteattr(f"{name} {name}-{n}")} pathLength="1" {rest}' for n, rest in enumerate(paths)]
    return "".join([head.replace("<g ", f"{moving}\n<g ", 1), *classes])


def flow_gif(
    states: np.ndarray, path: Path | str, *, seconds: float = 3.0, cell: int = 160, tell: Tell | None = None
) -> None:
    """Write a GIF of sketches on their way from noise to drawing: states (T, N, S, 8 or 10), T >= 2, N >= 1, in canvas units.

    At most `MAX_DRAWINGS` evenly spread drawings are shown, `cell` pixels wide each. Cubics appear and vanish gradually, by
    their sign. The last frame stays for `HOLD` seconds. tell: receives progress. Raises UserError if `path` cannot be written.
    """
    import torch

    from flowkit.sketch.soft_raster import soft_raster

    states = np.asarray(states, np.float32)
    assert states.ndim == 4 and len(states) > 1 and states.shape[1], states.shape
    drawings = _spread(states.shape[1], MAX_DRAWINGS)
    times = _spread(len(states), MAX_FRAMES)
    frames: list[Image] = []
    for number, time in enumerate(times):
        rows = np.nan_to_num(states[time][drawings], nan=9, posinf=9, neginf=-9)  # 9 is well off the canvas
        if time == len(states) - 1 and rows.shape[-1] > CONTINUES:
            rows = tidy(rows)
        with torch.no_grad():
            ink = soft_raster(torch.from_numpy(rows), cell, stroke_width=max(STROKE_WIDTH, 3.2 / cell)).numpy()
        frames.append(_sheet(list(np.round(PAPER - (PAPER - INK) * ink).astype(np.uint8))))
        if tell is not None:
            tell("drawing the flow", number + 1, len(times))
    each = max(20, round(1000 * seconds / len(frames)))  # milliseconds; browsers slow down shorter ones
    _write_gif(frames, path, [each] * (len(frames) - 1) + [round(1000 * HOLD)])


def strip(
    sketches: np.ndarray | Sequence[np.ndarray],
    path: Path | str,
    marked: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    cell: int = 256,
    seconds: float = 4.0,
) -> None:
    """Write drawings (S, 8 or 10), at least one, side by side to a .png, or one after the other, there and back, to a .gif.

    marked: (S,) bool per drawing, cubics to draw in another color. cell: width of a drawing in pixels. seconds: duration of a
    GIF. Raises UserError for another suffix, and if `path` cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".gif"):
        raise UserError(f"{path}: unknown type of picture; name a .png (side by side) or a .gif (one after the other)")
    assert len(sketches), "at least one drawing"
    marks = [None] * len(sketches) if marked is None else marked
    cells = [picture(sketch, cell, mark) for sketch, mark in zip(sketches, marks, strict=True)]
    if path.suffix.lower() == ".gif":
        frames = [_sheet([one]) for one in cells]
        each = max(20, round(1000 * seconds / max(1, 2 * len(frames) - 2)))
        _write_gif(frames + frames[-2:0:-1], path, each)
        return
    with replacing(path) as partial:
        _sheet(cells, columns=len(cells)).save(partial, "PNG")


def _sheet(cells: Sequence[np.ndarray], columns: int | None = None) -> Image:
    """Put square pictures of one size in rows, a little wider than high, on a gray page."""
    from PIL import Image

    columns = columns or int(np.ceil(len(cells) ** 0.5))
    color = any(one.ndim == 3 for one in cells)
    size = len(cells[0])
    gap = max(size // 24, 4)
    rows = -(-len(cells) // columns)
    shape = (columns * (size + gap) + gap, rows * (size + gap) + gap)
    page = Image.new("RGB", shape, (PAGE,) * 3) if color else Image.new("L", shape, PAGE)
    for number, one in enumerate(cells):
        page.paste(
            Image.fromarray(one), (gap + number % columns * (size + gap), gap + number // columns * (size + gap))
        )
    return page


def _write_gif(frames: list[Image], path: Path | str, duration: int | list[int]) -> None:
    """duration: milliseconds per frame."""
    # 16 grays, or 32 colors: smooth enough for lines, and half the size of 256.
    small = [frame.quantize(16 if frame.mode == "L" else 32) for frame in frames]
    with replacing(Path(path)) as partial:
        small[0].save(partial, "GIF", save_all=True, append_images=small[1:], duration=duration, loop=0, optimize=False)


def _spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spread numbers from 0 to count - 1, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
