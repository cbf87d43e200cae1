"""Decide whether an SVG element is visible, and whether as a stroke or a filled area, from attributes and CSS.

Sources: SVG 2, chapters 6 (styling), 11.4 (visibility) and 13 (painting); CSS Color 4.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from PIL import ImageColor

from flowkit.sketch.svg_css import MAX_VARIABLES, Cascade
from flowkit.sketch.svg_document import Document, Node
from flowkit.sketch.svg_path import length

UNSEEN = 1 / 510  # opacities below this round to 0 in 8 bits

_INHERITED = {
    "fill": "black", "stroke": "none", "color": "black", "visibility": "visible", "fill-opacity": "1",
    "stroke-opacity": "1", "stroke-width": "1", "fill-rule": "nonzero", "clip-rule": "nonzero",
    "stroke-dasharray": "none", "stroke-dashoffset": "0", "marker-start": "none", "marker-mid": "none",
    "marker-end": "none", "marker": "none",
}  # fmt: skip
PROPERTIES = frozenset(
    {*_INHERITED, "display", "opacity", "clip-path", "mask", "filter", "overflow", "transform", "transform-origin",
     "font-size", "stop-color", "stop-opacity", "mask-type"}
)  # fmt: skip
GEOMETRY = frozenset(
    {"x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "d"}
)  # in SVG 2 these can be set in CSS, too
UNREAD = frozenset({"offset-path", "translate", "rotate", "scale", "transform-box"})  # counted but not interpreted
ANIMATED = frozenset({"animation", "animation-name"})
_KEYWORDS = {
    "visibility": {"visible", "hidden", "collapse"},
    "fill-rule": {"nonzero", "evenodd"},
    "clip-rule": {"nonzero", "evenodd"},
    "overflow": {"visible", "hidden", "scroll", "auto", "clip"},
    "display": {"none", "inline", "block", "inline-block", "list-item", "run-in", "compact", "marker", "flex", "grid",
                "inline-flex", "inline-grid", "contents", "flow-root", "table", "inline-table", "table-row-group",
                "table-header-group", "table-footer-group", "table-row", "table-column-group", "table-column",
                "table-cell", "table-caption"},
}  # fmt: skip
_WIDE = {"inherit", "initial", "unset", "revert", "revert-layer"}
_SYSTEM_COLORS = {
    "canvas", "canvastext", "linktext", "visitedtext", "activetext", "buttonface", "buttontext", "buttonborder", "field",
    "fieldtext", "highlight", "highlighttext", "mark", "marktext", "graytext", "accentcolor", "window", "windowtext",
}  # fmt: skip
_NUMBER = r"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?"
_OPACITY = re.compile(rf"({_NUMBER})(%?)")
_WIDTH = re.compile(rf"({_NUMBER})(%|[A-Za-z]*)")
_HEX = re.compile(r"#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")
_FUNCTION = re.compile(r"([a-zA-Z-]+)\(([^()]*(?:\([^()]*\)[^()]*)*+)\)")
_URL = re.compile(r"url\(\s*(?:\"([^\"]*)\"|'([^']*)'|([^)\s]*))\s*\)\s*(.*)", re.DOTALL)
_VAR = re.compile(r"var\(\s*(--[^\s,()]+)\s*(?:,\s*([^()]*(?:\([^()]*\)[^()]*)*+))?\)")


def valid(name: str, value: str) -> bool:
    """Return whether a CSS declaration is valid. An invalid one is ignored, so that an earlier one applies."""
    low = value.lower()
    if not value or low in _WIDE or "var(" in low:
        return bool(value)
    if name in ("fill", "stroke", "color", "stop-color"):
        if url := _URL.fullmatch(value):
            return name in ("fill", "stroke") and (not url[4] or valid(name, url[4]))
        if low in ("none", "context-fill", "context-stroke"):
            return name in ("fill", "stroke")
        first = low.partition(" icc-color(")[0]
        return (
            first in ("currentcolor", "transparent")
            or first in ImageColor.colormap
            or first in _SYSTEM_COLORS
            or bool(_HEX.fullmatch(first) or _FUNCTION.fullmatch(first))
        )
    if name in _KEYWORDS:
        return all(word in _KEYWORDS[name] for word in low.split())
    if name.endswith("opacity"):
        return bool(_OPACITY.fullmatch(value))
    if name == "stroke-width":
        return bool(_WIDTH.fullmatch(value)) and not value.startswith("-")
    return True


@dataclass(frozen=True)
class Style:
    """Computed style of an element. Opacity is the product over the element and all ancestors."""

    inherited: dict[str, str] = field(default_factory=lambda: dict(_INHERITED))
    custom: dict[str, str] = field(default_factory=dict)  # CSS variables
    opacity: float = 1.0
    em: float = 16.0
    context: tuple[str, str] = ("none", "none")  # fill and stroke of the enclosing <use>, for context-fill and -stroke
    painted: bool = False  # whether fill or stroke is set on the element or an ancestor
    own: dict[str, str] = field(default_factory=dict)  # the element's declarations of non-inherited properties

    def __getitem__(self, name: str) -> str:
        return self.inherited[name]

    @property
    def displayed(self) -> bool:
        return self.own.get("display", "").lower() != "none"

    @property
    def visible(self) -> bool:
        return self["visibility"].lower() == "visible"


class Styles:
    """Styles of a document's elements, and the opacity of its gradients and patterns."""

    def __init__(self, document: Document) -> None:
        self.ids = document.ids
        self.cascade = Cascade(document.sheets, PROPERTIES, GEOMETRY | UNREAD | ANIMATED, valid)
        self._servers: dict[str, tuple[float, bool]] = {}  # opacity, and whether it is in objectBoundingBox units

    def of(self, node: Node, parent: Style) -> Style:
        declared = self.cascade.declared(node)
        if not declared:
            return parent if not parent.own else replace(parent, own={})
        inherited, own, custom = parent.inherited, {}, parent.custom
        if new := {name: value for name, value in declared.items() if name.startswith("--")}:
            custom = {**custom, **new} if len(custom) < MAX_VARIABLES else custom
        for name, value in declared.items():
            if name.startswith("--"):
                continue
            if "var(" in value.lower():
                value = _substituted(value, custom)
                if not valid(name, value):
                    value = "unset"  # invalid at computed-value time (CSS Variables)
            low = value.lower()
            if name in _INHERITED:
                if low == "initial":
                    value = _INHERITED[name]
                elif low in _WIDE or (name == "color" and low == "currentcolor"):
                    continue
                if inherited is parent.inherited:
                    inherited = dict(inherited)
                inherited[name] = value
            elif low in _WIDE:
                if low == "inherit" and name in parent.own:
                    own[name] = parent.own[name]
            else:
                own[name] = value
        opacity = parent.opacity * _opacity(own["opacity"]) if "opacity" in own else parent.opacity
        em = _font_size(own["font-size"], parent.em) if "font-size" in own else parent.em
        painted = parent.painted or "fill" in declared or "stroke" in declared
        return Style(inherited, custom, opacity, em, parent.context, painted, own)

    def where_defined(self, node: Node) -> Style:
        """Return the style of an element by its place in the document: for gradients, patterns, clip paths, masks."""
        chain: list[Node] = []
        at: Node | None = node
        while at is not None and at.parent is not None:
            chain.append(at)
            at = at.parent
        style = Style()
        for one in reversed(chain):
            style = self.of(one, style)
        return replace(style, opacity=1.0)

    def ink(self, style: Style, diagonal: float, *, flat: bool, fillable: bool) -> str:
        """Return "stroke" if the shape's stroke is visible, else "fill" if its fill is, else "".

        diagonal: reference length for a percentage in stroke-width. flat: whether the shape has no width or no height;
        gradients in objectBoundingBox units do not paint such shapes. fillable: False for <line>.
        """
        if not style.displayed or not style.visible:
            return ""
        if self.line_opacity(style, diagonal, flat) >= UNSEEN:
            return "stroke"
        return "fill" if fillable and not flat and self.area_opacity(style) >= UNSEEN else ""

    def line_opacity(self, style: Style, diagonal: float, flat: bool = False) -> float:
        if not length(style["stroke-width"], diagonal, 1.0, style.em) > 0:
            return 0.0
        return self.alpha(style["stroke"], style, flat) * _opacity(style["stroke-opacity"]) * style.opacity

    def area_opacity(self, style: Style) -> float:
        return self.alpha(style["fill"], style) * _opacity(style["fill-opacity"]) * style.opacity

    def alpha(self, paint: str, style: Style, flat: bool = False, depth: int = 0) -> float:
        """Return the opacity of a paint, 0 to 1."""
        low = paint.lower()
        if low in ("none", "transparent") or depth > 4:
            return 0.0
        if low == "currentcolor":
            return self.alpha(style["color"], style, flat, depth + 1) if style["color"].lower() != low else 1.0
        if low in ("context-fill", "context-stroke"):
            return self.alpha(style.context[low == "context-stroke"], style, flat, depth + 1)
        if url := _URL.fullmatch(paint):
            found = self._server(reference(paint) or "", flat)
            if found is None:  # use the fallback
                return self.alpha(url[4], style, flat, depth + 1) if url[4] else 0.0
            return found
        return color_alpha(low)

    def _server(self, name: str, flat: bool) -> float | None:
        """Return the largest opacity of a gradient or pattern. None if there is none with this name or it paints nothing."""
        node = self.ids.get(name)
        if node is None or node.tag not in ("linearGradient", "radialGradient", "pattern"):
            return None
        if name not in self._servers:
            self._servers[name] = self._painted(node)
        opacity, boxed = self._servers[name]
        return None if flat and boxed and opacity else opacity

    def _painted(self, node: Node) -> tuple[float, bool]:
        pattern = node.tag == "pattern"
        units, content = "", None
        at: Node | None = node
        for _ in range(20):  # follow href for attributes that are missing; a longer chain is a cycle
            if at is None:
                break
            units = units or at.attributes.get("patternUnits" if pattern else "gradientUnits", "").strip()
            if content is None and any(pattern or child.tag == "stop" for child in at.children):
                content = at
            at = self.ids.get(href(at) or "")
        if content is None:
            return 0.0, True
        if pattern:
            return 1.0, units != "userSpaceOnUse"
        outer = self.where_defined(content)
        stops = [self.of(child, outer) for child in content.children if child.tag == "stop"]
        opacities = (
            self.alpha(stop.own.get("stop-color", "black"), stop) * _opacity(stop.own.get("stop-opacity", "1"))
            for stop in stops
        )
        return max(opacities), units != "userSpaceOnUse"


def color_alpha(color: str) -> float:
    """Return the opacity of a color in lower case. 1 if it has no alpha."""
    if color in ("none", "transparent"):
        return 0.0
    if color.startswith("#"):
        return {5: lambda: int(color[4], 16) / 15, 9: lambda: int(color[7:], 16) / 255}.get(len(color), lambda: 1.0)()
    match = _FUNCTION.match(color)
    if not match:
        return 1.0
    if match[1] == "light-dark":
        light = match[2].strip()
        return color_alpha(light if _FUNCTION.match(light) else light.partition(",")[0].strip())
    _, slash, alpha = match[2].partition("/")
    if not slash:
        parts = match[2].split(",")
        alpha = parts[3] if match[1] in ("rgb", "rgba", "hsl", "hsla") and len(parts) == 4 else "1"
    return _opacity(alpha.strip())


def lightness(paint: str) -> float | None:
    """Return the luminance of a plain color as masks use it, 0 to 1. None for gradients and other paints."""
    try:
        r, g, b = ImageColor.getrgb(paint.lower())[:3]
    except ValueError:
        return None
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255


def reference(value: str) -> str | None:
    """Return the id in url(#id). None if the value does not refer to this document."""
    match = _URL.fullmatch(value)
    target = (match[1] or match[2] or match[3] or "") if match else ""
    return target[1:] if target.startswith("#") else None


def href(node: Node) -> str | None:
    """Return the id that an element's href refers to. The href may have any prefix."""
    plain = node.attributes.get("href")
    value = plain if plain is not None else next((v for k, v in node.attributes.items() if k.endswith(":href")), "")
    value = value.strip()
    return value[1:] if value.startswith("#") else None


def _substituted(value: str, custom: dict[str, str]) -> str:
    value = value[:1000]
    for _ in range(8):  # variables may refer to variables; deeper nesting is a cycle
        new = _VAR.sub(lambda match: custom.get(match[1], match[2] or "").strip(), value, count=4)[:1000]
        if new == value:
            break
        value = new
    return value.strip()


def _opacity(text: str) -> float:
    match = _OPACITY.fullmatch(text)
    if not match:
        return 1.0
    return min(max(float(match[1]) / (100 if match[2] else 1), 0.0), 1.0)


def _font_size(text: str, parent: float) -> float:
    size = length(text, parent, parent, parent)
    return size if 0 <= size < 1e6 else parent


def dashes(style: Style, lengths: list[float], diagonal: float, path_length: float) -> str:
    """Return whether subpaths of these lengths are drawn "solid", "dashed", or "hidden".

    Hidden subpaths lie in a gap of the dash pattern, as before a line-drawing animation. path_length: the pathLength
    attribute, the author's value for the total length, or 0.
    """
    if style["stroke-dasharray"].lower() == "none":
        return "solid"
    pattern = [length(part, diagonal, -1.0, style.em) for part in style["stroke-dasharray"].replace(",", " ").split()]
    period = sum(pattern) * (1 + len(pattern) % 2)
    if not pattern or min(pattern) < 0 or not 0 < period < math.inf:
        return "solid"
    pattern = (pattern * 2)[: len(pattern) * (1 + len(pattern) % 2)]
    scale = sum(lengths) / path_length if path_length > 0 else 1.0
    start = length(style["stroke-dashoffset"], diagonal, 0.0, style.em) % period
    i = 0
    while start >= pattern[i]:  # find the dash or gap in which every subpath starts
        start -= pattern[i]
        i = (i + 1) % len(pattern)
    left = (pattern[i] - start) * scale
    if i % 2 == 0:
        return "solid" if left >= max(lengths, default=0.0) else "dashed"
    return "hidden" if left >= max(lengths, default=0.0) * (1 - 1e-3) else "dashed"
