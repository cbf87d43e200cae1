"""SVG files from strangers, read as cubics on the canvas. Bounded, and no entity is ever expanded or fetched.

expat is used directly and without namespaces: KanjiVG binds its prefix only inside its DOCTYPE, and copies of such
files that lost it are no well-formed namespaced XML, yet every stroke in them is plain to read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from xml.parsers import expat

import numpy as np

from flowkit.sketch.importers.items import Unreadable, fit_canvas
from flowkit.sketch.svg_path import IDENTITY, Affine, Cubic, compose, length, parse_transform, path_cubics, shape_path

MAX_BYTES = 10_000_000
MAX_CUBICS = 20_000
MAX_PATH = 3_000_000  # characters of one path
MAX_ELEMENTS = 200_000  # also counts what <use> repeats
MAX_TEXT = 5_000_000  # characters of attributes that are read, the same ones again where <use> repeats them
MAX_DEPTH = 100  # also ends a <use> of itself
FARTHEST = 100.0  # canvas units; beyond it a coordinate is taken for a mistake

_SHAPES = {"path", "line", "polyline", "polygon", "rect", "circle", "ellipse"}
_CONTAINERS = {
    "svg",
    "g",
    "a",
    "switch",
}  # all others (text, defs, symbol, clipPath, ...) are not drawn where they stand


@dataclass
class _Node:
    tag: str
    attributes: dict[str, str]
    children: list[_Node] = field(default_factory=list)


@dataclass(frozen=True)
class _Style:
    """What decides whether something is seen; presentation attributes that children inherit."""

    fill: str = "black"
    stroke: str = "none"
    visibility: str = "visible"
    display: str = "inline"  # not inherited: what is not displayed is not entered


def read_svg(data: bytes) -> list[np.ndarray]:
    """The strokes of an SVG document: each subpath as cubics (n, 8) float64, canvas units, in drawing order.

    The viewBox (or else width and height) becomes the canvas [-1, 1] x [-1, 1], aspect kept, centred; a document
    with neither is fitted to its bounding box. Filled shapes give their outline; what is invisible gives nothing.
    Raises Unreadable (a UserError): no XML, no SVG, entity declarations, too large, or coordinates off all bounds.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1_000_000} MB", f"{len(data):,} bytes")
    if not data.strip():
        raise Unreadable("is empty")
    root, ids, styled = _parse(data)
    reader = _Reader(ids, styled)
    box = _canvas(root)
    reader.width, reader.height = box[2:] if box else (0.0, 0.0)
    reader.canvas = box
    try:
        reader.enter(root.children, IDENTITY, reader.style(root, _Style()), 0)
    except (ArithmeticError, ValueError) as error:  # the sine of infinity, the length of 1e308 + 1e308i
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("holds numbers beyond all bounds", str(error)) from None
    subpaths = reader.subpaths
    if not subpaths:
        return []
    flat = np.array([c for subpath in subpaths for c in subpath]).view(np.float64).reshape(-1, 8)
    if not np.isfinite(flat).all():
        raise Unreadable("holds coordinates that are not finite")
    ends = np.cumsum([len(subpath) for subpath in subpaths])[:-1]
    if box is None:
        fitted = fit_canvas([part.reshape(-1, 2) for part in np.split(flat, ends)])
        return [part.reshape(-1, 8) for part in fitted]
    x, y, width, height = box
    side = max(width, height)
    centre = np.array([x + width / 2, y + height / 2] * 4)
    with np.errstate(all="ignore"):
        flat = (flat - centre) / (side / 2)
    if not np.abs(flat).max() <= FARTHEST:  # NaN, of a canvas too small to divide by, is not below either
        raise Unreadable("has coordinates far outside of its canvas", f"{np.abs(flat).max():.3g} times its half side")
    return np.split(flat, ends)


def _parse(data: bytes) -> tuple[_Node, dict[str, _Node], bool]:
    """The document as a tree, its elements by id, and whether it has a style sheet."""
    top = _Node("", {})
    stack = [top]
    ids: dict[str, _Node] = {}
    prefix = ""
    styled = False
    count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal prefix, styled, count
        count += 1
        if count > MAX_ELEMENTS:
            raise Unreadable(f"has more than {MAX_ELEMENTS:,} elements")
        if len(stack) > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH} elements")
        space, _, local = name.rpartition(":")
        if len(stack) == 1:
            prefix = space  # some writers say <ns0:svg>; elements of other prefixes are not SVG
        node = _Node(local if space == prefix else name, attributes)
        stack[-1].children.append(node)
        stack.append(node)
        styled = styled or node.tag == "style"
        if "id" in attributes:
            ids.setdefault(attributes["id"], node)

    def end(_: str) -> None:
        stack.pop()

    def refuse(*_: Any) -> NoReturn:
        raise Unreadable("declares XML entities, which are refused; save it as plain SVG")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    # With no declaration there is nothing to expand, and expat never fetches a DTD by itself.
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unreadable("is no XML", str(error)) from None
    except (LookupError, UnicodeError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("is no XML", f"unreadable encoding: {error}") from None
    root = top.children[0]
    if root.tag != "svg":
        raise Unreadable("is XML but no SVG", f"its root is <{root.tag}>")
    return root, ids, styled


def _canvas(root: _Node) -> tuple[float, float, float, float] | None:
    """x, y, width, height of the document's canvas in user units; None where it names none."""
    if box := _view_box(root):
        return box
    width, height = (length(root.attributes.get(key), 0.0) for key in ("width", "height"))
    return (0.0, 0.0, width, height) if 0 < width < math.inf and 0 < height < math.inf else None


def _view_box(node: _Node) -> tuple[float, float, float, float] | None:
    try:
        x, y, w, h = (float(part) for part in node.attributes.get("viewBox", "").replace(",", " ").split())
    except ValueError:
        return None
    return (x, y, w, h) if 0 < w < math.inf and 0 < h < math.inf and math.isfinite(x + y) else None


class _Reader:
    """Walks the tree and collects subpaths in the root's user units."""

    def __init__(self, ids: dict[str, _Node], styled: bool) -> None:
        self.ids = ids
        self.styled = styled  # a style sheet may paint anything, so that nothing is taken for invisible
        self.subpaths: list[list[Cubic]] = []
        self.canvas: tuple[float, float, float, float] | None = None
        self.width = self.height = 0.0
        self.cubics = self.moves = self.visited = self.text = 0

    def enter(self, nodes: list[_Node], outer: Affine, style: _Style, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH} elements")
        self.visited += len(nodes)
        if self.visited > MAX_ELEMENTS:
            raise Unreadable(f"has more than {MAX_ELEMENTS:,} elements")
        for node in nodes:
            self.text += sum(map(len, node.attributes.values()))
            if self.text > MAX_TEXT:
                raise Unreadable(f"has more than {MAX_TEXT:,} characters of attributes, repeated ones counted")
            if node.tag in _SHAPES:
                self.draw(node, outer, style)
            elif node.tag in _CONTAINERS or node.tag == "use":
                inner = self.style(node, style)
                if inner.display == "none":
                    continue
                placed = compose(outer, parse_transform(node.attributes.get("transform", "")))
                if node.tag == "use":
                    self.use(node, placed, inner, depth)
                else:
                    placed = compose(placed, self.viewport(node, node)) if node.tag == "svg" else placed
                    self.enter(node.children, placed, inner, depth + 1)

    def use(self, node: _Node, outer: Affine, style: _Style, depth: int) -> None:
        href = next((value for key, value in node.attributes.items() if key.rpartition(":")[2] == "href"), "")
        target = self.ids.get(href[1:]) if href.startswith("#") else None  # another document is never opened
        if target is None:
            return
        if target.tag in ("symbol", "svg"):
            inner = self.style(target, style)
            if inner.display != "none":
                self.enter(target.children, compose(outer, self.viewport(target, node)), inner, depth + 1)
            return
        at = complex(*(length(node.attributes.get(key), w) for key, w in (("x", self.width), ("y", self.height))))
        self.enter([target], compose(outer, (1 + 0j, 1j, at)), style, depth + 1)

    def viewport(self, node: _Node, placing: _Node) -> Affine:
        """Of a nested <svg>, or of a <symbol> placed by <use>: its viewBox into its box, as preserveAspectRatio asks."""
        a = placing.attributes
        x, y = length(a.get("x"), self.width), length(a.get("y"), self.height)
        box = _view_box(node)
        if box is None:
            return 1 + 0j, 1j, complex(x, y)
        width, height = (
            length(a.get(key) or node.attributes.get(key), whole, whole)
            for key, whole in (("width", self.width or box[2]), ("height", self.height or box[3]))
        )
        sx, sy = width / box[2], height / box[3]
        aspect = node.attributes.get("preserveAspectRatio", "")
        if "none" not in aspect:
            sx = sy = max(sx, sy) if "slice" in aspect else min(sx, sy)
        spare = complex(width - sx * box[2], height - sy * box[3])
        x_part = 0.0 if "xMin" in aspect else 1.0 if "xMax" in aspect else 0.5
        y_part = 0.0 if "YMin" in aspect else 1.0 if "YMax" in aspect else 0.5
        shift = complex(x + x_part * spare.real - sx * box[0], y + y_part * spare.imag - sy * box[1])
        return complex(sx), complex(0, sy), shift

    def draw(self, node: _Node, outer: Affine, style: _Style) -> None:
        style = self.style(node, style)
        if style.display == "none" or style.visibility != "visible":
            return
        if style.fill == "none" and style.stroke == "none" and not self.styled:
            return
        a = node.attributes
        d = a.get("d", "") if node.tag == "path" else shape_path(node.tag, a, self.width, self.height)
        if len(d) > MAX_PATH:
            raise Unreadable(f"has a path of more than {MAX_PATH:,} characters")
        self.moves += d.count("M") + d.count("m")
        if self.moves > MAX_CUBICS:
            raise Unreadable(f"has more than {MAX_CUBICS:,} subpaths")
        subpaths = path_cubics(d, MAX_CUBICS)
        self.cubics += sum(map(len, subpaths))
        if self.cubics > MAX_CUBICS:
            raise Unreadable(f"has more than {MAX_CUBICS:,} curves")
        affine = compose(outer, parse_transform(a["transform"])) if "transform" in a else outer
        if affine != IDENTITY:
            subpaths = [[_mapped(cubic, affine) for cubic in subpath] for subpath in subpaths]
        if node.tag == "rect" and style.stroke == "none" and not self.styled and self.covers_canvas(subpaths):
            return  # a background
        self.subpaths += subpaths

    def covers_canvas(self, subpaths: list[list[Cubic]]) -> bool:
        if self.canvas is None or not subpaths:
            return False
        x, y, w, h = self.canvas
        corners = [cubic[0] for cubic in subpaths[0]]
        slack = 1e-3 * max(w, h)
        return (
            min(p.real for p in corners) <= x + slack and max(p.real for p in corners) >= x + w - slack
            and min(p.imag for p in corners) <= y + slack and max(p.imag for p in corners) >= y + h - slack
        )  # fmt: skip

    @staticmethod
    def style(node: _Node, inherited: _Style) -> _Style:
        a = node.attributes
        inline = {}
        if "style" in a:
            inline = {key.strip(): value.strip() for key, _, value in (p.partition(":") for p in a["style"].split(";"))}
        found = {
            key: value
            for key in ("fill", "stroke", "visibility", "display")
            if (value := inline.get(key) or a.get(key)) and value != "inherit"
        }
        found.setdefault("display", "inline")
        return replace(inherited, **found)


def _mapped(cubic: Cubic, affine: Affine) -> Cubic:
    ax, ay, shift = affine
    p0, p1, p2, p3 = (ax * p.real + ay * p.imag + shift for p in cubic)
    return p0, p1, p2, p3
