"""Visible regions of clip paths and masks that consist of plain shapes (SVG 2; CSS Masking 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flowkit.sketch.svg_clip import Region, Shape, Subpaths, box_shape
from flowkit.sketch.svg_document import Node
from flowkit.sketch.svg_path import Affine, compose, length, mapped, parse_transform
from flowkit.sketch.svg_style import UNSEEN, Style, Styles, href, lightness, reference
from flowkit.sketch.svg_viewport import Box

SHAPES = {"path", "line", "polyline", "polygon", "rect", "circle", "ellipse"}
MAX_SHAPES = 1_000  # per region
MAX_MADE = 50_000  # elements and curves of all regions of a document, counted once per placement
DARK, LIGHT = 0.02, 0.05  # luminance in a mask: shapes up to DARK hide, shapes from LIGHT on show

Size = tuple[float, float]  # viewport that percentages refer to
Outlines = Callable[[Node, Style, Size], Subpaths]


class _NotSimple(Exception):
    pass


class Regions:
    """Regions of one document, cached by element and placement."""

    def __init__(self, styles: Styles, outlines: Outlines) -> None:
        self._styles, self._outlines = styles, outlines
        self._known: dict[tuple[int, Affine], list[Region]] = {}
        self._plain: dict[tuple[int, Size], Subpaths] = {}  # shapes before they are placed
        self._made = 0

    def of(
        self, style: Style, affine: Affine, size: Size, extent: Callable[[], Box | None]
    ) -> tuple[list[Region], list[str]]:
        """Return the regions of an element's own clip path and mask, and the names of those that are too complex.

        extent: returns the element's bounding box, for regions in units of it. A reference to a missing element counts as
        none, as in browsers.
        """
        found: list[Region] = []
        failed: list[str] = []
        for name, tag, cause in (("clip-path", "clipPath", "clip paths"), ("mask", "mask", "masks")):
            value = style.own.get(name, "none")
            node = self._styles.ids.get(reference(value) or "")
            try:
                if node is not None and node.tag == tag:
                    found += self._region(node, affine, size, extent, 0)
                elif value.lower() != "none" and not value.lower().startswith("url("):
                    raise _NotSimple  # a CSS basic shape
            except _NotSimple:
                failed.append(cause)
        return found, failed

    def count(self, made: int) -> None:
        self._made += made
        if self._made > MAX_MADE:
            raise _NotSimple

    def outlines(self, node: Node, style: Style, size: Size) -> Subpaths:
        key = id(node), size
        if key not in self._plain:
            self._plain[key] = self._outlines(node, style, size)
        self.count(sum(map(len, self._plain[key])))
        return self._plain[key]

    def _region(
        self, node: Node, affine: Affine, size: Size, extent: Callable[[], Box | None], depth: int
    ) -> list[Region]:
        if depth > 4:
            raise _NotSimple  # also ends a clip path that clips itself
        masking = node.tag == "mask"
        frame = self._frame(node, affine, size, extent) if masking else []
        if node.attributes.get("maskContentUnits" if masking else "clipPathUnits", "").strip() == "objectBoundingBox":
            box = extent()
            if box is None:
                raise _NotSimple
            affine = compose(affine, (complex(box[2]), complex(0, box[3]), complex(box[0], box[1])))
            size = (1.0, 1.0)
        known = (id(node), affine)
        if known not in self._known:
            style = self._styles.where_defined(node)
            if not masking:
                affine = compose(affine, parse_transform(style.own.get("transform", "")))
            shapes = _Shapes(self._styles, self, size, masking, style.own.get("mask-type", "").lower() != "alpha")
            shapes.collect(node.children, affine, style, 0)
            regions = [Region(shapes.found)]
            for name in ("clip-path", "mask"):
                other = self._styles.ids.get(reference(style.own.get(name, "")) or "")
                if other is not None and other.tag in ("clipPath", "mask"):
                    regions += self._region(other, affine, size, extent, depth + 1)
            self._known[known] = regions
        return [*frame, *self._known[known]]

    def _frame(self, node: Node, affine: Affine, size: Size, extent: Callable[[], Box | None]) -> list[Region]:
        """Return the rectangle outside which a mask hides everything. Empty if it contains the whole masked element."""
        whole, of_box = size, node.attributes.get("maskUnits", "").strip() != "userSpaceOnUse"
        if of_box:
            whole = (1.0, 1.0)
        x, y = (length(node.attributes.get(k), w, -0.1 * w) for k, w in zip("xy", whole, strict=True))
        width, height = (
            length(node.attributes.get(k), w, 1.2 * w) for k, w in zip(("width", "height"), whole, strict=True)
        )
        if of_box:
            if x <= 0 and y <= 0 and x + width >= 1 and y + height >= 1:
                return []
            if (box := extent()) is None:
                raise _NotSimple
            affine = compose(affine, (complex(box[2]), complex(0, box[3]), complex(box[0], box[1])))
        corners = box_shape(x, y, max(width, 0.0), max(height, 0.0)).subpaths
        return [Region([Shape([[mapped(c, affine) for c in s] for s in corners])])]


@dataclass
class _Shapes:
    """Collects the shapes of a clip path or mask. Raises _NotSimple unless each is a plain shape that shows or hides."""

    styles: Styles
    regions: Regions
    size: Size
    masking: bool
    luminance: bool
    found: list[Shape] = field(default_factory=list)

    def collect(self, nodes: list[Node], affine: Affine, outer: Style, depth: int) -> None:
        for node in nodes:
            self.regions.count(1)
            if len(self.found) > MAX_SHAPES or depth > 8:
                raise _NotSimple
            style = self.styles.of(node, outer)
            if not style.displayed or (node.tag in ("g", "a") and not self.masking):
                continue  # groups are not allowed in a clip path; renderers skip them
            if node.tag in ("text", "image", "svg", "switch", "foreignObject"):
                raise _NotSimple
            if node.tag not in SHAPES and node.tag not in ("use", "g", "a"):
                continue
            if any(style.own.get(name, "none").lower() != "none" for name in ("clip-path", "mask", "filter")):
                raise _NotSimple
            placed = compose(affine, parse_transform(style.own.get("transform", "")))
            if node.tag in SHAPES:
                self.add(node, placed, style)
            elif node.tag == "use":
                target = self.styles.ids.get(href(node) or "")
                if target is not None and target.tag not in SHAPES and target.tag != "g":
                    raise _NotSimple
                x, y = (length(node.attributes.get(k), w, 0, style.em) for k, w in zip("xy", self.size, strict=True))
                if target is not None:
                    self.collect([target], compose(placed, (1 + 0j, 1j, complex(x, y))), style, depth + 1)
            else:
                self.collect(node.children, placed, style, depth + 1)

    def add(self, node: Node, affine: Affine, style: Style) -> None:
        adds, rule = True, style["clip-rule"]
        if not style.visible:
            return
        if self.masking:
            rule = style["fill-rule"]
            if self.styles.line_opacity(style, self.size[0]) >= UNSEEN:
                raise _NotSimple
            opacity = self.styles.area_opacity(style)
            if opacity < UNSEEN:
                return
            if self.luminance:
                light = lightness(style["color"] if style["fill"].lower() == "currentcolor" else style["fill"])
                if light is None or DARK < light * opacity < LIGHT or (light <= DARK and opacity < 0.98):
                    raise _NotSimple
                adds = light > DARK
        if node.tag != "line" and (subpaths := self.regions.outlines(node, style, self.size)):
            self.found.append(
                Shape([[mapped(c, affine) for c in s] for s in subpaths], rule.lower() == "evenodd", adds)
            )
