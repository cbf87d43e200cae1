"""Write a sketch as an SVG document with one `<path>` per stroke."""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from flowkit.data.files import replacing

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
) -> str:
    """Return `sketch` (S, 8) as SVG text. The canvas [-1, 1] is mapped to `size` x `size` user units.

    stroke_width: in canvas units. background: None for a transparent picture. Strokes that are not finite are left out,
    because a renderer would refuse the whole file.
    """
    sketch = np.asarray(sketch, np.float64).reshape(-1, 8)
    sketch = sketch[np.isfinite(sketch).all(axis=1)]
    points = np.round((sketch + 1) * (size / 2), 3) + 0.0  # + 0.0 turns -0 into 0
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 {size} {size}">']
    if title:
        lines.append(f"<title>{escape(_NOT_XML.sub('', title))}</title>")
    if background is not None:
        lines.append(f'<rect width="{size}" height="{size}" fill={quoteattr(background)}/>')
    lines.append(
        f'<g fill="none" stroke={quoteattr(color)} stroke-width="{stroke_width * size / 2:.4g}" '
        'stroke-linecap="round" stroke-linejoin="round">'
    )
    lines += ["<path d={}/>".format('"M{:.10g} {:.10g}C{:.10g} {:.10g} {:.10g} {:.10g} {:.10g} {:.10g}"'.format(*stroke))
              for stroke in points.tolist()]  # fmt: skip
    return "\n".join([*lines, "</g>", "</svg>", ""])


def write_svg(path: Path | str, sketch: np.ndarray, title: str = "") -> None:
    """Write `sketch` (S, 8) to `path` atomically. Raises UserError if it cannot be written."""
    with replacing(Path(path)) as partial:
        partial.write_text(svg(sketch, title=title), "utf-8")
