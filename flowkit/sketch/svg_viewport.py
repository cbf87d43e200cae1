"""Position and scale of an SVG viewport: viewBox, width, height and preserveAspectRatio (SVG 2, chapter 8)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from flowkit.sketch.svg_path import IDENTITY, Affine, length

Box = tuple[float, float, float, float]  # x, y, width, height

_FOUR = re.compile(r"[\s,]*+" + r"[\s,]*+".join([r"([+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?)"] * 4) + r"[\s,]*+")
_RELATIVE = re.compile(r"\s*[\d.eE+-]+\s*%\s*")


def view_box(attributes: Mapping[str, str]) -> Box | None:
    match = _FOUR.fullmatch(attributes.get("viewBox", ""))
    if not match:
        return None
    x, y, w, h = map(float, match.groups())
    return (x, y, w, h) if 0 < w < math.inf and 0 < h < math.inf and math.isfinite(x + y) else None


def canvas_of(a: Mapping[str, str], em: float) -> tuple[Box | None, Affine]:
    """Return the canvas of a root <svg> and the map from user units to it. The canvas is None without a size.

    The canvas is the viewBox if width and height have its proportions or are not both given.
    """
    box = view_box(a)
    width, height = (
        0.0 if _RELATIVE.fullmatch(a.get(k, "")) else length(a.get(k), 0, 0, em) for k in ("width", "height")
    )
    if not (0 < width < math.inf and 0 < height < math.inf):
        return box, IDENTITY
    if box is None:
        return (0.0, 0.0, width, height), IDENTITY
    ratio = width * box[3] / (height * box[2]) if height * box[2] else 0.0
    if not 1e-9 < ratio < 1e9 or abs(ratio - 1) < 1e-3:
        return box, IDENTITY
    return (0.0, 0.0, width, height), place_viewport(box, a.get("preserveAspectRatio", ""), (0.0, 0.0, width, height))


def place_viewport(box: Box, aspect: str, into: Box) -> Affine:
    """Return the map from a viewBox to a rectangle. aspect: the preserveAspectRatio attribute."""
    x, y, width, height = into
    sx, sy = width / box[2], height / box[3]
    if "none" not in aspect:
        sx = sy = max(sx, sy) if "slice" in aspect else min(sx, sy)
    spare = complex(width - sx * box[2], height - sy * box[3])
    x_part = 0.0 if "xMin" in aspect else 1.0 if "xMax" in aspect else 0.5
    y_part = 0.0 if "YMin" in aspect else 1.0 if "YMax" in aspect else 0.5
    shift = complex(x + x_part * spare.real - sx * box[0], y + y_part * spare.imag - sy * box[1])
    return complex(sx), complex(0, sy), shift
