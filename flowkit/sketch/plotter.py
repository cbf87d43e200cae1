"""Drawings on pages for a pen plotter: SVG in millimeters, with pen strokes in an order that moves the raised pen little."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.errors import UserError, listing, nearest
from flowkit.sketch.bezier import points
from flowkit.sketch.strokes import pen_strokes
from flowkit.sketch.svg_write import path_data

PAGES = {"a3": (297, 420), "a4": (210, 297), "a5": (148, 210), "letter": (215.9, 279.4), "legal": (215.9, 355.6)}  # mm
UNITS = {"mm": 1.0, "cm": 10.0, "in": 25.4}
MARGIN = 10.0  # mm
PEN = 0.3  # mm; width of lines, for those who look at the page. A plotter ignores it
GAP = 0.05  # between cells, as a share of a cell
SMALLEST = 20.0  # mm; width of a cell below which drawings go to another page, unless a grid is given
TOUCHING = 0.02  # mm; pen strokes whose ends are nearer than this are drawn without lifting the pen
REFINED = 4000  # pen strokes on a page above which 2-opt would take more than some seconds
PASSES = 20  # of 2-opt at most
_CURVE = np.linspace(0, 1, 33)


@dataclass(frozen=True)
class Page:
    """Sizes in millimeters."""

    width: float
    height: float
    margin: float

    @property
    def room(self) -> tuple[float, float]:
        return self.width - 2 * self.margin, self.height - 2 * self.margin


@dataclass(frozen=True)
class Plot:
    pages: tuple[str, ...]  # SVG texts
    cell: float  # mm; width of the place of one drawing
    lifts: tuple[int, int]  # how often the pen is lifted: in the order of the data, and in that of the pages
    travel: tuple[
        float, float
    ]  # mm that the raised pen moves, in the same orders, from the top left corner of each page
    shrunk: int  # drawings that reached beyond their canvas, and were moved or scaled into it


def parse_length(text: str, option: str) -> float:
    """Return a length such as "20mm", "2cm" or "0.8in" in millimeters. Raises UserError, which names the option."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in UNITS:
        problem = "has no unit" if found is not None and not found[2] else "is not a length"
        raise UserError(f"{option}: {text!r} {problem}; expected a number with mm, cm or in, such as 20mm or 0.8in")
    return float(found[1]) * UNITS[found[2]]


def parse_page(page: str, margin: str | None = None, landscape: bool = False) -> Page:
    """Return the page for the values of --page, --margin and --landscape. Raises UserError."""
    name = page.strip().lower()
    if name in PAGES:
        width, height = PAGES[name]
    else:
        found = re.fullmatch(r"([\d.]+)\s*(mm|cm|in)?\s*x\s*([\d.]+)\s*(mm|cm|in)", name)
        if found is None:
            raise UserError(
                f"--page: unknown page {page!r}; expected {listing(PAGES)} or a size such as 210x297mm{nearest(name, PAGES)}"
            )
        width = parse_length(found[1] + (found[2] or found[4]), "--page")
        height = parse_length(found[3] + found[4], "--page")
    if landscape:
        width, height = max(width, height), min(width, height)
    made = Page(width, height, MARGIN if margin is None else parse_length(margin, "--margin"))
    if min(made.room) < 1:
        raise UserError(
            f"--margin: {made.margin:g} mm on each side leaves no room on a page of {width:g} x {height:g} mm; use a smaller "
            "margin"
        )
    return made


def parse_grid(text: str) -> tuple[int, int]:
    """Return rows and columns of "3x4". Raises UserError."""
    found = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text.lower())
    if found is None or not int(found[1]) or not int(found[2]):
        raise UserError(f"--grid: {text!r} is not a grid; expected rows x columns, such as 3x4")
    return int(found[1]), int(found[2])


def check_grid(page: Page, grid: tuple[int, int]) -> None:
    """Raise UserError if the cells of the grid would be too small to draw in."""
    if (cell := _cell(page, *grid)) < 1:
        raise UserError(
            f"--grid: {grid[0]}x{grid[1]} cells on a page of {page.width:g} x {page.height:g} mm would be {cell:.2g} mm wide; "
            "use fewer rows and columns"
        )


def plot(
    sketches: np.ndarray | Sequence[np.ndarray],
    page: Page,
    grid: tuple[int, int] | None = None,
    *,
    tell: Callable[[int, int], object] | None = None,
) -> Plot:
    """Put drawings (S, 8 or 10) on as many pages as they take, in rows from the top left.

    grid: rows and columns of a page. By default all drawings go to one page if its cells are at least `SMALLEST` wide. tell:
    receives pages done and their number. Strokes that are not finite are left out.
    """
    rows, columns = grid or _grid(page, len(sketches))
    cell, each = _cell(page, rows, columns), rows * columns
    pitch = cell * (1 + GAP)
    left = (page.width - columns * pitch + cell * GAP) / 2
    top = (page.height - rows * pitch + cell * GAP) / 2
    texts, lifts, travel, shrunk = [], np.zeros(2, int), np.zeros(2), 0
    for first in range(0, len(sketches), each):
        on_page: list[np.ndarray] = []
        for number, sketch in enumerate(sketches[first : first + each]):
            strokes = [stroke for stroke in pen_strokes(np.asarray(sketch, np.float64)) if np.isfinite(stroke).all()]
            inside, moved = _inside(strokes)
            shrunk += moved
            corner = np.tile([left + number % columns * pitch, top + number // columns * pitch], 4)
            on_page += [corner + (stroke + 1) * (cell / 2) for stroke in inside]
        lines = _joined(order(on_page))
        lifts += [len(on_page), len(lines)]
        travel += [travel_of(on_page), travel_of(lines)]
        count = -(-len(sketches) // each)
        texts.append(_page_svg(lines, page, f"Page {len(texts) + 1} of {count}"))
        if tell is not None:
            tell(len(texts), count)
    return Plot(
        tuple(texts), cell, (int(lifts[0]), int(lifts[1])), (float(travel[0]), float(travel[1])), shrunk
    )  # fmt: skip


def order(strokes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return pen strokes (n, 8) in an order, and each in a direction, in which the raised pen moves little.

    The pen starts at (0, 0). The nearest end of a stroke comes next. Then parts of the order are reversed while that shortens
    the travel (2-opt).
    """
    if not strokes:
        return []
    ends = np.array([[stroke[0, :2], stroke[-1, 6:8]] for stroke in strokes])  # (n, start and end, 2)
    picked, backward = _greedy(ends)
    if len(strokes) <= REFINED:
        picked, backward = _two_opt(ends, picked, backward)
    return [reverse(strokes[one]) if turned else strokes[one] for one, turned in zip(picked, backward, strict=True)]


def reverse(stroke: np.ndarray) -> np.ndarray:
    """Return the same line (n, 8) drawn from its end."""
    return stroke.reshape(-1, 4, 2)[::-1, ::-1].reshape(-1, 8)


def travel_of(strokes: Sequence[np.ndarray]) -> float:
    """Return how far the pen moves between pen strokes (n, 8), from (0, 0) to the start of the first one on."""
    at, total = np.zeros(2), 0.0
    for stroke in strokes:
        total += float(np.linalg.norm(stroke[0, :2] - at))
        at = stroke[-1, 6:8]
    return total


def _greedy(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, at = np.ones(len(ends), bool), np.zeros(2)
    picked, backward = np.empty(len(ends), int), np.empty(len(ends), bool)
    for number in range(len(ends)):
        gaps = np.where(left[:, None], ((ends - at) ** 2).sum(2), np.inf)
        one, end = np.unravel_index(gaps.argmin(), gaps.shape)
        picked[number], backward[number], left[one] = one, bool(end), False
        at = ends[one, 1 - end]
    return picked, backward


def _two_opt(ends: np.ndarray, picked: np.ndarray, backward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reverse parts of the order, and the direction of each stroke in them, while that shortens the travel."""
    placed = np.where(backward[:, None, None], ends[picked, ::-1], ends[picked])
    picked, backward = picked.copy(), backward.copy()
    gap = lambda a, b: np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])  # noqa: E731
    for _ in range(PASSES):
        shorter = False
        for first in range(len(placed)):
            before = placed[first - 1, 1] if first else np.zeros(2)
            saved = gap(before, placed[first, 0]) - gap(before, placed[first:, 1])
            saved[:-1] += gap(placed[first:-1, 1], placed[first + 1 :, 0]) - gap(
                placed[first, 0], placed[first + 1 :, 0]
            )
            last = first + int(saved.argmax())
            if saved[last - first] > 1e-9:
                part = slice(first, last + 1)
                placed[part] = placed[part][::-1, ::-1].copy()
                picked[part] = picked[part][::-1].copy()
                backward[part] = ~backward[part][::-1]
                shorter = True
        if not shorter:
            break
    return picked, backward


def _joined(strokes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Join pen strokes that start where the one before ends: the pen stays down."""
    lines: list[np.ndarray] = []
    for stroke in strokes:
        if lines and np.linalg.norm(stroke[0, :2] - lines[-1][-1, 6:8]) <= TOUCHING:
            lines[-1] = np.concatenate([lines[-1], stroke])
        else:
            lines.append(stroke)
    return lines


def _inside(strokes: list[np.ndarray]) -> tuple[list[np.ndarray], bool]:
    """Move, and if necessary scale, a drawing into the canvas [-1, 1]; whether that was necessary."""
    if not strokes:
        return strokes, False
    curve = points(np.concatenate(strokes), _CURVE).reshape(-1, 2)
    low, high = curve.min(0), curve.max(0)
    if low.min() >= -1 and high.max() <= 1:
        return strokes, False
    center, half = (low + high) / 2, (high - low) / 2
    scale = min(1.0, 0.995 / half.max())  # the curve may reach a little further than the points on it
    to = np.clip(center, -1 + half * scale, 1 - half * scale)
    return [(stroke - np.tile(center, 4)) * scale + np.tile(to, 4) for stroke in strokes], True


def _cell(page: Page, rows: int, columns: int) -> float:
    width, height = page.room
    return min(width / (columns + GAP * (columns - 1)), height / (rows + GAP * (rows - 1)))


def _grid(page: Page, count: int) -> tuple[int, int]:
    """Return rows and columns with the largest cells that hold all drawings; with the smallest allowed, if those are smaller."""
    grids = [(-(-count // columns), columns) for columns in range(1, count + 1)]
    best = max(grids, key=lambda grid: _cell(page, *grid), default=(1, 1))
    if _cell(page, *best) >= SMALLEST:
        return best
    rows, columns = (max(1, int((room + GAP * SMALLEST) / (SMALLEST * (1 + GAP)))) for room in page.room[::-1])
    return rows, columns


def _page_svg(lines: Sequence[np.ndarray], page: Page, title: str) -> str:
    """Return the SVG text, without a background, which a plotter would draw."""
    width, height = f"{page.width:g}", f"{page.height:g}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}mm" height="{height}mm" viewBox="0 0 {width} {height}">',
        f"<title>{title}</title>",
        f'<g fill="none" stroke="black" stroke-width="{PEN:g}" stroke-linecap="round" stroke-linejoin="round">',
        *(f'<path d="{path_data(line)}"/>' for line in lines),
        "</g>", "</svg>", "",
    ])  # fmt: skip
