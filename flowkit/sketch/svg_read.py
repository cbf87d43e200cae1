"""Read the visible ink of an SVG file as cubics on the canvas. Safe for untrusted files: size and work are limited."""

from __future__ import annotations

import cmath
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from flowkit.errors import Unreadable
from flowkit.sketch import bezier
from flowkit.sketch.importers.items import fit_canvas
from flowkit.sketch.svg_clip import Cutter, Points, Region, Shape, Subpaths, TooComplex, box_shape, covers, has_area
from flowkit.sketch.svg_document import MAX_DEPTH, MAX_ELEMENTS, Document, Node, fits, parse
from flowkit.sketch.svg_path import (
    IDENTITY,
    Affine,
    Cubic,
    compose,
    length,
    line,
    mapped,
    parse_transform,
    path_cubics,
    shape_path,
)
from flowkit.sketch.svg_region import SHAPES, Regions, Size
from flowkit.sketch.svg_style import ANIMATED, GEOMETRY, UNREAD, Style, Styles, dashes, href, reference
from flowkit.sketch.svg_viewport import Box, canvas_of, place_viewport, view_box

MAX_BYTES = 10_000_000
MAX_CUBICS = 20_000
MAX_PATH = 3_000_000  # characters of one path
MAX_TEXT = 5_000_000  # characters of attributes that are read; each <use> of an element counts again
FARTHEST = 100.0  # canvas units; coordinates beyond it are treated as errors
BLEED = 0.01  # canvas units by which ink may extend beyond the canvas before it is cut
_NO_SIZE = (0.0, 0.0, 100.0, 100.0)  # reference box for percentages if the document has no size
# All other containers (defs, symbol, clipPath, ...) are not rendered in place.
_CONTAINERS = {"svg", "g", "a", "switch"}
_IGNORED = {
    "text": "text is not read",
    "image": "images are not read",
    "foreignObject": "HTML in a foreignObject is not read",
    "animate": "animations are not played",
    "animateTransform": "animations are not played",
    "animateMotion": "animations are not played",
    "set": "animations are not played",
}


def read_svg(data: bytes, causes: Counter[str] | None = None, *, cut: bool = True) -> list[np.ndarray]:
    """Return the strokes of an SVG document. See `read_drawing`."""
    return read_drawing(data, causes, cut=cut)[0]


def read_drawing(
    data: bytes, causes: Counter[str] | None = None, *, cut: bool = True
) -> tuple[list[np.ndarray], Box | None]:
    """Return the strokes of an SVG document in drawing order, and its canvas (x, y, width, height) in its own units.

    Each stroke is a subpath: cubics (n, 8) float64 in canvas units. The canvas is None for a document without a size.
    The viewBox (or else width and height) is mapped to the canvas [-1, 1] x [-1, 1], centered and with its aspect ratio
    kept. A document without a size is fitted to its bounding box. Stroked shapes give their center line, filled shapes
    without a stroke their outline, invisible shapes nothing. causes: receives counts of what was not interpreted.
    cut: whether to cut off ink outside the canvas. Raises Unreadable (a UserError): not XML, not SVG, entities other than
    plain text, too large, or coordinates out of range.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1_000_000} MB", f"{len(data):,} bytes")
    if not data.strip():
        raise Unreadable("is empty")
    reader = _Reader(parse(data))
    try:
        reader.read()
        found = reader.on_canvas(cut)
    except (ArithmeticError, ValueError) as error:  # the sine of infinity, the length of 1e308 + 1e308i
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("holds numbers that are too large", str(error)) from None
    if causes is not None:
        causes.update(+reader.causes)
    return found, reader.canvas


@dataclass(frozen=True)
class _State:
    """What an element inherits from its ancestors."""

    affine: Affine
    style: Style
    size: Size  # of the viewport
    regions: tuple[Region, ...] = ()  # the element is cut by all of these; in the root's user units
    depth: int = 0
    used: tuple[Node, ...] = ()  # targets of the enclosing <use> elements


class _Reader:
    """Walks the tree and collects subpaths in the root's user units."""

    def __init__(self, document: Document) -> None:
        self.root, self.ids = document.root, document.ids
        self.styles = Styles(document)
        self.regions = Regions(self.styles, self.outlines)
        self.cutter = Cutter()
        self.causes = self.styles.cascade.causes
        if document.linked:
            self.causes["style sheets in other files are not read"] += document.linked
        self.subpaths: Subpaths = []
        self.written: Subpaths = []  # the same, but shapes without fill or stroke attributes are kept as lines
        self.painted = False  # whether there is any ink apart from such lines
        self.open: set[Node] = set()  # the element being drawn and its ancestors
        self.canvas: Box | None = None
        self.slack = 0.0
        self.cubics = self.moves = self.visited = self.text = 0

    def read(self) -> None:
        style = self.styles.of(self.root, Style())
        a = dict(self.root.attributes)
        a.update({k: v for k, v in style.own.items() if k in ("width", "height") and length(v, 0.0, 0.0, style.em) > 0})
        self.canvas, affine = canvas_of(a, style.em)
        box = view_box(a) or self.canvas or _NO_SIZE
        self.slack = 1e-4 * max((self.canvas or box)[2:])
        state = _State(affine, Style(), box[2:])
        self.enter([self.root], state)
        if not self.painted and self.written:
            # A renderer fills these by default and shows nothing. A file with only bare lines is meant as a line drawing.
            self.causes["lines without fill or stroke are read as strokes"] += 1
            self.subpaths = self.written

    def on_canvas(self, cut: bool) -> list[np.ndarray]:
        if not self.subpaths:
            return []
        flat = np.array([c for subpath in self.subpaths for c in subpath])
        if not np.isfinite(flat).all():
            raise Unreadable("has coordinates that are not finite")
        ends = np.cumsum([len(subpath) for subpath in self.subpaths])[:-1]
        if self.canvas is None:
            fitted = fit_canvas([part.view(np.float64).reshape(-1, 2) for part in np.split(flat, ends)])
            return [part.reshape(-1, 8) for part in fitted]
        x, y, width, height = self.canvas
        half, center = max(width, height) / 2, complex(x + width / 2, y + height / 2)
        with np.errstate(all="ignore"):
            placed = np.split(((flat - center).view(np.float64) / half).view(np.complex128), ends)
        w, h = width / 2 / half, height / 2 / half
        inside = [p for p in placed if not (cut and (_beside(p.real, w + BLEED) or _beside(p.imag, h + BLEED)))]
        far = max((float(np.abs(part.view(np.float64)).max()) for part in inside), default=0.0)
        if not far <= FARTHEST:  # NaN, of a canvas too small to divide by, is not below either
            raise Unreadable("has coordinates far outside its canvas", f"{far:.3g} times half its longer side")
        out: list[np.ndarray] = []
        frame = Region([box_shape(-w, -h, 2 * w, 2 * h)])
        for leaves, group in groupby(inside, lambda part: cut and not _held(part, w + BLEED, h + BLEED)):
            if leaves:
                kept = self.limited([list(map(tuple, part)) for part in group], frame, "", BLEED)
                out += [np.array(subpath) for subpath in kept]
            else:
                out += group
        if len(out) < len(placed):
            self.causes["ink outside the canvas is left out"] += 1
        return [part.view(np.float64).reshape(-1, 8) for part in out]

    def enter(self, nodes: list[Node], state: _State) -> None:
        if state.depth > MAX_DEPTH:
            raise Unreadable(f"is nested deeper than {MAX_DEPTH} elements")
        self.visited += len(nodes)
        if self.visited > MAX_ELEMENTS:
            raise Unreadable(f"has more than {MAX_ELEMENTS:,} elements")
        for node in nodes:
            if node.tag in SHAPES or node.tag in _CONTAINERS or node.tag == "use" or node.tag in _IGNORED:
                self.text += sum(map(len, node.attributes.values()))
                if self.text > MAX_TEXT:
                    raise Unreadable(f"has more than {MAX_TEXT:,} characters of attributes, repeated ones counted")
                if fits(node):
                    self.open.add(node)
                    self.element(node, state)
                    self.open.discard(node)

    def element(self, node: Node, state: _State) -> None:
        style = self.styles.of(node, state.style)
        if not style.displayed:
            return
        if cause := _IGNORED.get(node.tag):
            shown = style.visible and style.opacity > 0 and (node.text or node.tag != "text")
            self.causes[cause] += shown
            return
        self.note(style)
        if node.tag in SHAPES or node.tag == "use":
            self.causes[_IGNORED["animate"]] += any(_IGNORED.get(c.tag) == _IGNORED["animate"] for c in node.children)
        state = replace(state, style=style, affine=compose(state.affine, self.transform(style, state)))
        if node.tag in SHAPES:
            self.draw(node, state)
            return
        if node.tag == "use":
            self.use(node, state)
            return
        state = self.cut_by(state, lambda: None)
        if node.tag == "switch":
            self.visited += len(node.children)
            chosen = next((n for n in node.children if n.tag != "foreignObject" and _drawn(n) and fits(n)), None)
            self.enter([chosen] if chosen else [], replace(state, depth=state.depth + 1))
        else:
            if node.tag == "svg" and node is not self.root:
                placed = self.viewport(node, self.geometry(node, style), state)
                if placed is None:
                    return
                state = placed
            self.enter(node.children, replace(state, depth=state.depth + 1))

    def note(self, style: Style) -> None:
        """Count style properties of an element that are not interpreted."""
        if reference(style.own.get("filter", "")) in self.ids:
            self.causes["filters are not applied"] += 1
        if any(style.own.get(name, "none").lower() not in ("none", "initial", "unset") for name in UNREAD):
            self.causes["CSS motion and transform properties other than transform are not applied"] += 1
        if any(style.own.get(name, "none").lower() != "none" for name in ANIMATED):
            self.causes[_IGNORED["animate"]] += 1

    def transform(self, style: Style, state: _State) -> Affine:
        if "transform" not in style.own:
            return IDENTITY
        affine = parse_transform(style.own["transform"])
        if "transform-origin" in style.own and affine != IDENTITY:
            words = style.own["transform-origin"].split()[:2]
            sides = {"left": "0", "top": "0", "center": "50%", "right": "100%", "bottom": "100%"}
            if words[0] in ("top", "bottom") or words[-1] in ("left", "right"):
                words.reverse()
            words = [sides.get(word, word) for word in [*words, "center"][:2]]
            x, y = (length(word, whole, 0.0, style.em) for word, whole in zip(words, state.size, strict=True))
            there, back = complex(x, y), complex(-x, -y)
            affine = compose(compose((1 + 0j, 1j, there), affine), (1 + 0j, 1j, back))
        return affine

    def cut_by(self, state: _State, extent: Callable[[], Box | None]) -> _State:
        """Add the regions of the element's own clip path and mask to the state."""
        if "clip-path" not in state.style.own and "mask" not in state.style.own:
            return state
        found, failed = self.regions.of(state.style, state.affine, state.size, extent)
        for cause in failed:
            self.causes[f"{cause} that are not plain shapes are not applied"] += 1
        return replace(state, regions=(*state.regions, *found))

    def use(self, node: Node, state: _State) -> None:
        name = href(node)
        target = self.ids.get(name or "")
        if target is None:
            self.causes["references to missing elements or other files are not followed"] += 1
            return
        above: Node | None = node
        while above is not None and above is not target:
            above = above.parent
        if above is not None or target in state.used or target in self.open:
            self.causes["a <use> that refers to itself is not drawn"] += 1
            return
        style = replace(state.style, context=(state.style["fill"], state.style["stroke"]))
        a = self.geometry(node, style)
        at = complex(*(length(a.get(k), w, 0.0, style.em) for k, w in zip("xy", state.size, strict=True)))
        # x and y translate the <use> element itself, including its clip path.
        state = self.cut_by(replace(state, affine=compose(state.affine, (1 + 0j, 1j, at))), lambda: None)
        state = replace(state, style=style, used=(*state.used, target), depth=state.depth + 1)
        if target.tag not in ("symbol", "svg"):
            self.enter([target], state)
            return
        inner = self.styles.of(target, style)
        if target.tag == "svg" and not inner.displayed:
            return
        inner_state = replace(state, style=inner, affine=compose(state.affine, self.transform(inner, state)))
        own = self.geometry(target, inner)
        size = {key: a[key] for key in ("width", "height") if key in a}
        placed = self.viewport(target, {**own, **size}, self.cut_by(inner_state, lambda: None))
        if placed is not None:
            self.enter(target.children, replace(placed, depth=state.depth + 1))

    def viewport(self, node: Node, a: dict[str, str], state: _State) -> _State | None:
        """Return the state inside a nested <svg>, or a <symbol> placed by <use>. None if its size is zero."""
        em, (whole_x, whole_y) = state.style.em, state.size
        x, y = length(a.get("x"), whole_x, 0.0, em), length(a.get("y"), whole_y, 0.0, em)
        width, height = length(a.get("width"), whole_x, whole_x, em), length(a.get("height"), whole_y, whole_y, em)
        if not (0 < width < math.inf and 0 < height < math.inf):
            return None
        regions = state.regions
        named = self.canvas is not None or ("width" in a and "height" in a)
        if named and state.style.own.get("overflow", "hidden") not in ("visible", "auto"):
            frame = box_shape(x, y, width, height)
            frame = Shape([[mapped(c, state.affine) for c in s] for s in frame.subpaths])
            regions = (*regions, Region([frame]))
        box = view_box(a)
        inner: Affine = (1 + 0j, 1j, complex(x, y))
        if box is not None:
            inner = place_viewport(box, a.get("preserveAspectRatio", ""), (x, y, width, height))
        return replace(
            state, regions=regions, affine=compose(state.affine, inner), size=box[2:] if box else (width, height)
        )

    def geometry(self, node: Node, style: Style) -> dict[str, str]:
        """Return the attributes of an element, with its CSS geometry properties applied."""
        css = {name: value for name, value in style.own.items() if name in GEOMETRY}
        if css.get("d", "").startswith("path("):
            css["d"] = css["d"][5:].strip("() \"'")
        return {**node.attributes, **css} if css else node.attributes

    def outlines(self, node: Node, style: Style, size: Size) -> Subpaths:
        """Return the subpaths of a shape in its own units. Raises Unreadable beyond MAX_PATH and MAX_CUBICS."""
        a = self.geometry(node, style)
        d = a.get("d", "") if node.tag == "path" else shape_path(node.tag, a, *size, style.em)
        if len(d) > MAX_PATH:
            raise Unreadable(f"has a path of more than {MAX_PATH:,} characters")
        self.moves += d.count("M") + d.count("m")
        if self.moves > MAX_CUBICS:
            raise Unreadable(f"has more than {MAX_CUBICS:,} subpaths")
        subpaths = path_cubics(d, MAX_CUBICS)
        self.cubics += sum(map(len, subpaths))
        if self.cubics > MAX_CUBICS:
            raise Unreadable(f"has more than {MAX_CUBICS:,} curves")
        return subpaths

    def draw(self, node: Node, state: _State) -> None:
        style, styles = state.style, self.styles
        diagonal = math.hypot(*state.size) / math.sqrt(2)
        kind = styles.ink(style, diagonal, flat=False, fillable=node.tag != "line")
        if not kind:
            return
        subpaths = self.outlines(node, style, state.size)
        if not subpaths:
            return
        box = _extent(subpaths)
        bare = kind == "fill" and not style.painted
        if box is None or not (box[2] and box[3]):
            kind = "fill" if bare else styles.ink(style, diagonal, flat=True, fillable=False)
        if kind == "stroke" and style["stroke-dasharray"].lower() != "none":
            lengths = [_arc_length(subpath) for subpath in subpaths]
            dashed = dashes(style, lengths, diagonal, length(node.attributes.get("pathLength"), 0.0))
            self.causes["dashed lines are read as solid lines"] += dashed == "dashed"
            if dashed == "hidden":
                bare = replace(style, inherited={**style.inherited, "stroke": "none"})
                kind = styles.ink(bare, diagonal, flat=False, fillable=node.tag != "line")
        if not kind:
            return
        if node.tag in ("path", "line", "polyline", "polygon"):
            names = (reference(style[name]) for name in ("marker", "marker-start", "marker-mid", "marker-end"))
            self.causes["markers (arrowheads) are not drawn"] += any(name in self.ids for name in names)
        state = self.cut_by(state, lambda: box)
        written = self.placed(subpaths, state, "") if bare else None
        lines = bare and not any(len(subpath) > 1 and has_area(subpath) for subpath in subpaths)
        if kind == "fill":
            subpaths = [_closed(subpath) for subpath in subpaths if has_area(subpath)]
        subpaths = self.placed(subpaths, state, style["fill-rule"].lower() if kind == "fill" else "")
        canvas, whole = self.canvas, {"width": "100%", "height": "100%"}
        if canvas is None and node.tag == "rect" and whole.items() <= self.geometry(node, style).items():
            canvas = _NO_SIZE
        if kind == "fill" and canvas is not None and covers(subpaths, canvas):
            self.causes["backgrounds are left out"] += 1
            return
        self.painted |= not lines and bool(subpaths)
        self.subpaths += subpaths
        self.written += subpaths if written is None else written

    def placed(self, subpaths: Subpaths, state: _State, area: str) -> Subpaths:
        """Transform to the root's user units and cut by all regions. area: fill rule of a filled shape, else ""."""
        if state.affine != IDENTITY:
            subpaths = [[mapped(cubic, state.affine) for cubic in subpath] for subpath in subpaths]
        for region in state.regions:
            subpaths = self.limited(subpaths, region, area, self.slack)
        return subpaths

    def limited(self, subpaths: Subpaths, region: Region, area: str, slack: float) -> Subpaths:
        """Return the part inside a region, or everything if computing it would take too long."""
        if not all(cmath.isfinite(p) for subpath in subpaths for cubic in subpath for p in cubic):
            return subpaths  # refused later
        try:
            return self.cutter.cut(subpaths, region, area=area, slack=slack)
        except TooComplex:
            self.causes["clip paths with too many curves are not applied"] += 1
            return subpaths


def _held(part: Points, w: float, h: float) -> bool:
    return bool(np.abs(part.real).max() <= w and np.abs(part.imag).max() <= h)


def _beside(axis: np.ndarray, half: float) -> bool:
    return bool(axis.min() > half or axis.max() < -half)


def _drawn(node: Node) -> bool:
    return node.tag in SHAPES or node.tag in _CONTAINERS or node.tag in ("use", "text", "image")


def _closed(subpath: list[Cubic]) -> list[Cubic]:
    """Close a filled outline, as filling does."""
    start, end = subpath[0][0], subpath[-1][3]
    return subpath if abs(end - start) <= 1e-9 * abs(start) else [*subpath, line(end, start)]


def _extent(subpaths: Subpaths) -> Box | None:
    """Return the bounding box of all control points. None if they are not finite."""
    points: Points = np.array([cubic for subpath in subpaths for cubic in subpath])
    if not np.isfinite(points).all():
        return None
    x, y = points.real, points.imag
    return float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))


def _arc_length(subpath: list[Cubic]) -> float:
    return float(bezier.arc_length(np.array(subpath).view(np.float64)).sum())
