"""A sketch as an SVG document: string formatting, one `<path>` per pen stroke."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from flowkit.data.files import replacing
from flowkit.sketch.strokes import pen_strokes

Box = tuple[float, float, float, float]
STROKE_WIDTH = 0.022  # canvas units (the canvas is 2 wide): 5.6 px of 512

# Characters that XML 1.0 cannot contain even escaped. Titles come from folder names, which may contain any of them.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def svg(
    sketch: np.ndarray,
    *,
    size: int = 512,
    stroke_width: float = STROKE_WIDTH,
    color: str = "black",
    background: str | None = "white",
    title: str = "",
    view: Box | None = None,
) -> str:
    """The SVG text of `sketch` (S, 8 or 10), canvas [-1, 1] mapped to `size` x `size` user units.

    view: (x, y, width, height) in user units to map the canvas to instead, as `read_drawing` reads it. stroke_width: in canvas
    units. background: None for a transparent picture. Strokes that are not finite are left out,
    because a renderer would refuse the whole file.
    """
    x, y, width, height = view or (0, 0, size, size)
    half, center = max(width, height) / 2, np.tile([x + width / 2, y + height / 2], 4)
    digits = 3 + max(0, round(math.log10(512 / (2 * half))))  # the same precision in any units
    extent = f'width="{width:g}" height="{height:g}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {extent} viewBox="{x:g} {y:g} {width:g} {height:g}">']
    if title:
        lines.append(f"<title>{escape(_NOT_XML.sub('', title))}</title>")
    if background is not None:
        place = "" if view is None else f'x="{x:g}" y="{y:g}" '
        lines.append(f"<rect {place}{extent} fill={quoteattr(background)}/>")
    lines.append(
        f'<g fill="none" stroke={quoteattr(color)} stroke-width="{stroke_width * half:.4g}" '
        'stroke-linecap="round" stroke-linejoin="round">'
    )
    for stroke in pen_strokes(np.asarray(sketch, np.float64)):
        if np.isfinite(stroke).all():
            lines.append(f'<path d="{path_data(stroke * half + center, digits)}"/>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


def path_data(stroke: np.ndarray, digits: int = 3) -> str:
    """Return a pen stroke (n, 8) as the `d` of an SVG path."""
    points = np.round(stroke, digits) + 0.0  # + 0.0 turns -0 into 0
    start = "M{:.10g} {:.10g}".format(*points[0, :2])
    return start + "".join("C{:.10g} {:.10g} {:.10g} {:.10g} {:.10g} {:.10g}".format(*cubic[2:]) for cubic in points)


def write_svg(path: Path | str, sketch: np.ndarray, title: str = "", view: Box | None = None) -> None:
    """Write `sketch` (S, 8 or 10) to `path`, whole or not at all. Raises UserError where it cannot be written."""
    with replacing(Path(path)) as partial:
        partial.write_text(svg(sketch, title=title, view=view), "utf-8")
