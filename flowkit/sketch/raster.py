"""Sketches as pixels: a supersampled rasterizer, contact sheets, and the ink grid for nearest-neighbor metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowkit.data.files import replacing
from flowkit.sketch.strokes import cubics, exists
from flowkit.sketch.svg_write import STROKE_WIDTH

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from flowkit.domain import Tell

MOST_BESIDE = 8  # sketches beside what was asked for, in one line of a sheet
MAX_POINTS = 20_000  # per stroke; strokes of a diverged model can have any length
PAGE, PAPER, INK, LABEL = 244, 255, 20, 80  # gray levels of a contact sheet
MARK = (214, 69, 32)  # color of marked strokes, red-orange: dark enough for thin lines


def bernstein(t: np.ndarray) -> np.ndarray:
    """Return the weights (..., 4) of a cubic's control points at parameters `t` (...)."""
    s = 1 - t
    return np.stack([s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t], axis=-1)


def trace(sketch: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points along every stroke of `sketch` (S, 8), with at most `spacing` canvas units between neighbors.

    Returns points (M, 2) in drawing order, and the index (M,) of each point's stroke. Strokes that are not finite are
    skipped.
    """
    strokes = cubics(np.asarray(sketch, np.float64)).reshape(-1, 4, 2)
    strokes = strokes[np.isfinite(strokes).all(axis=(1, 2))]
    # The speed of a cubic is at most 3 times its longest leg, so with this many steps none is longer than `spacing`.
    legs = np.abs(np.diff(strokes, axis=1)).sum(axis=2).max(axis=1, initial=0.0)
    counts = np.clip(np.ceil(3 * legs / spacing), 1, MAX_POINTS).astype(int) + 1
    owner = np.repeat(np.arange(len(strokes)), counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    t = step / (counts[owner] - 1)
    return np.einsum("mk,mkd->md", bernstein(t), strokes[owner]), owner


def rasterize(sketch: np.ndarray, size: int = 512, *, stroke_width: float = STROKE_WIDTH) -> np.ndarray:
    """Rasterize `sketch` (S, 8) to a gray picture (size, size) uint8, black on white, with round caps and joins.

    stroke_width: in canvas units. Ink outside the canvas is cut off. Discs are stamped along the strokes on a finer grid,
    so caps and joins are round by construction.
    """
    radius = stroke_width * size / 4  # pixels: the canvas is 2 wide, the radius half the width
    supersample = int(np.clip(np.ceil(4 / radius), 4, 12)) if radius > 0 else 4
    fine, radius = size * supersample, radius * supersample
    points, _ = trace(sketch, spacing=0.25 * max(radius, 0.5) * 2 / fine)
    x, y = ((points + 1) * (fine / 2) - 0.5).T  # the centers of the fine pixels are at the integers
    near = (x > -radius) & (x < fine + radius) & (y > -radius) & (y < fine + radius)
    x, y = x[near, None], y[near, None]
    # In each row a disc is a span of pixels: +1 at its start, -1 after its end. Ink is where the running sum is not 0.
    rows = np.round(y) + np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    half2 = radius * radius - (rows - y) ** 2
    half = np.sqrt(np.maximum(half2, 0))
    start, stop = np.clip(np.ceil(x - half), 0, fine), np.clip(np.floor(x + half) + 1, 0, fine)
    drawn = (half2 >= 0) & (rows >= 0) & (rows < fine)
    row = rows[drawn].astype(np.int64) * (fine + 1)
    spans = np.zeros((fine, fine + 1), np.int32)
    one = np.int32(1)  # of the array's type: with a Python number `add.at` is 25 times slower
    np.add.at(spans.reshape(-1), row + start[drawn].astype(np.int64), one)
    np.add.at(spans.reshape(-1), row + stop[drawn].astype(np.int64), -one)
    ink = np.cumsum(spans, axis=1, dtype=np.int32)[:, :-1] > 0
    # Summing rows first is much faster than both axes at once.
    count = ink.reshape(size, supersample, fine).sum(axis=1, dtype=np.uint16)
    count = count.reshape(size, size, supersample).sum(axis=2)
    return np.round(255 - count * (255 / supersample**2)).astype(np.uint8)


def short_lines(x: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Approximate the cubics of sketches x (N, S, 8 or 10) by segments of at most about `spacing` canvas units.

    Returns their ends (M, 2, 2), the cubic of each segment (M,), and the sketch of each cubic (K,), in drawing order. Only
    cubics that exist and are finite are counted.
    """
    x = np.asarray(x)
    there = exists(x) & np.isfinite(x[..., :8]).all(axis=-1)
    curves = x[there][:, :8].astype(np.float64).clip(-9, 9).reshape(-1, 4, 2)  # 9 is well off the canvas
    # No arc is longer than its control polygon. Its points lie at equal steps of the parameter, so they are denser than asked.
    bound = np.linalg.norm(np.diff(curves, axis=1), axis=2).sum(axis=1)
    counts = np.clip(np.ceil(bound / spacing), 4, MAX_POINTS).astype(int) + 1
    owner = np.repeat(np.arange(len(curves)), counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    points = np.einsum("mk,mkd->md", bernstein(step / (counts[owner] - 1)), curves[owner])
    inner = owner[1:] == owner[:-1]
    return np.stack([points[:-1][inner], points[1:][inner]], axis=1), owner[1:][inner], np.nonzero(there)[0]


def ink_grid(x: np.ndarray, size: int = 14, *, chunk: int = 512) -> np.ndarray:
    """Return the ink of x (N, S, 8 or 10) on a grid: (N, size * size) float32, the line length per cell in cell widths.

    Segments of at most a quarter of a cell are distributed bilinearly over the four cells nearest to their midpoint. Ink outside
    the canvas is dropped. Splitting or reversing a stroke does not change the result. Rows are not normalized, because the
    amount of ink distinguishes classes.
    """
    found = [_ink_rows(x[i : i + chunk], size) for i in range(0, len(x), chunk)]
    return np.concatenate(found or [np.zeros((0, size * size), np.float32)])


def _ink_rows(x: np.ndarray, size: int) -> np.ndarray:
    n = len(x)
    lines, owner, sketch = short_lines(x, 0.5 / size)
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=-1) * (size / 2)
    at = ((lines.mean(axis=1) + 1) * (size / 2) - 0.5).clip(-2, size + 0.5)  # cell centers at the integers
    low = np.floor(at).astype(np.int64)
    frac = at - low
    side = size + 4  # a margin of 2 cells catches what lies off the canvas
    grid = np.zeros(n * side * side)
    base = sketch[owner] * side * side + (low[:, 1] + 2) * side + low[:, 0] + 2
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dy - frac[:, 1]) * np.abs(1 - dx - frac[:, 0]) * length
            grid += np.bincount(base + dy * side + dx, share, len(grid))
    return grid.reshape(n, side, side)[:, 2:-2, 2:-2].reshape(n, -1).astype(np.float32)


def touched_cells(x: np.ndarray, size: int, *, chunk: int = 512) -> np.ndarray:
    """x: (N, S, 8 or 10) -> (N, size, size) bool: the cells of the canvas that ink touches, seen every quarter of a cell."""
    grid = np.zeros((len(x), size, size), bool)
    for first in range(0, len(x), chunk):
        lines, owner, sketch = short_lines(x[first : first + chunk], 0.5 / size)
        row, points = np.repeat(sketch[owner], 2), lines.reshape(-1, 2)
        cell = np.floor((points + 1) * (size / 2)).astype(np.int64)
        inside = ((cell >= 0) & (cell < size)).all(axis=1)
        grid[first + row[inside], cell[inside, 1], cell[inside, 0]] = True
    return grid


def picture(sketch: np.ndarray, size: int, marked: np.ndarray | None = None) -> np.ndarray:
    """Draw a sketch (S, 8 or 10): (size, size) uint8, or (size, size, 3) with `marked` (S,) bool cubics in another color."""
    width = max(STROKE_WIDTH, 3.2 / size)
    draw = lambda rows: 1 - rasterize(rows, size, stroke_width=width).astype(np.float32) / 255  # noqa: E731
    if marked is None or not np.any(marked):
        return np.round(PAPER - (PAPER - INK) * draw(cubics(sketch))).astype(np.uint8)
    there = exists(sketch)
    given = np.asarray(marked, bool)[there]
    page = np.full((size, size, 3), PAPER, np.float32)
    for rows, color in ((cubics(sketch)[~given], (INK,) * 3), (cubics(sketch)[given], MARK)):
        page += draw(rows)[..., None] * (np.array(color, np.float32) - page)
    return np.round(page).astype(np.uint8)


def contact_sheet(
    x: np.ndarray,
    titles: Sequence[str],
    path: Path | str,
    columns: int | None = None,
    *,
    cell: int | None = None,
    tell: Tell | None = None,
    marked: np.ndarray | None = None,
) -> None:
    """Write a PNG of all sketches `x` (N, S, 8), N >= 1, each with its title below.

    cell: width of one picture in pixels. Defaults to 176, or 112 for 100 or more sketches. tell: receives progress. marked:
    (N, S) bool, cubics to draw in another color. Raises UserError if the file cannot be written.
    """
    sheet = sheet_image(x, titles, columns, cell, tell, marked)
    with replacing(Path(path)) as partial:
        sheet.save(partial, "PNG")


def sheet_image(
    x: np.ndarray,
    titles: Sequence[str],
    columns: int | None = None,
    cell: int | None = None,
    tell: Tell | None = None,
    marked: np.ndarray | None = None,
) -> Image:
    """Return the picture that `contact_sheet` writes, as a PIL image of mode L, or RGB with marked cubics."""
    from PIL import Image, ImageDraw, ImageFont

    assert len(x) == len(titles) and len(x) > 0, (len(x), len(titles))
    columns = min(columns or _columns(len(x)), len(x))
    cell = cell or (176 if len(x) < 100 else 112)
    gap, label = max(cell // 14, 6), max(cell // 8, 15)
    font = ImageFont.load_default(max(cell // 13, 11))
    wide, high = cell + gap, cell + gap + label
    fitted = {title: _fit(title, font, cell) for title in set(titles)}
    rows = -(-len(x) // columns)
    shape = (columns * wide + gap, rows * high + gap)
    page = Image.new("L", shape, PAGE) if marked is None else Image.new("RGB", shape, (PAGE,) * 3)
    draw = ImageDraw.Draw(page)
    for number, (sketch, title) in enumerate(zip(x, titles, strict=True)):
        left, top = gap + number % columns * wide, gap + number // columns * high
        drawn = picture(sketch, cell, None if marked is None else marked[number])
        page.paste(Image.fromarray(drawn), (left, top))
        middle = (left + cell / 2, top + cell + label / 2)
        draw.text(middle, fitted[title], fill=LABEL if marked is None else (LABEL,) * 3, font=font, anchor="mm")
        if tell is not None:
            tell("rendering sketches", number + 1, len(x))
    return page


def asked_sheet(
    x: np.ndarray, asked: Sequence[Image | str], path: Path | str, *, cell: int = 176, tell: Tell | None = None
) -> None:
    """Write a PNG with what was asked for, pictures or texts, each beside its share of the sketches `x` (N, S, 8 or 10).

    Sketch i belongs to asked[i * len(asked) // N]. Raises UserError if the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    owner = np.arange(len(x)) * len(asked) // len(x)
    columns, gap = min(MOST_BESIDE, int(np.bincount(owner).max())), max(cell // 14, 6)
    lines = [list(chunk) for number in range(len(asked)) for chunk in _chunks(np.flatnonzero(owner == number), columns)]
    step, font = cell + gap, ImageFont.load_default(max(cell // 11, 11))
    page = Image.new("RGB", ((columns + 1) * step + 2 * gap, len(lines) * step + gap), (PAGE,) * 3)
    draw, done, shown = ImageDraw.Draw(page), 0, set[int]()
    for line, rows in enumerate(lines):
        top, number = gap + line * step, int(owner[rows[0]])
        head = asked[number]
        if number in shown:
            pass  # its sketches go on
        elif isinstance(head, str):
            words = _wrapped(head, font, cell)[: max(1, int(cell / (font.size * 1.25)))]  # pyright: ignore[reportAttributeAccessIssue]
            draw.multiline_text(
                (gap + cell / 2, top + cell / 2),
                "\n".join(words),
                fill=(LABEL,) * 3,
                font=font,
                anchor="mm",
                align="center",
            )
        else:
            small = ImageOps.contain(head.convert("RGB"), (cell, cell))
            page.paste(small, (gap + (cell - small.width) // 2, top + (cell - small.height) // 2))
        shown.add(number)
        for column, row in enumerate(rows):
            page.paste(Image.fromarray(picture(x[row], cell)).convert("RGB"), (2 * gap + (column + 1) * step, top))
            done += 1
            if tell is not None:
                tell("rendering sketches", done, len(x))
    with replacing(Path(path)) as partial:
        page.save(partial, "PNG")


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _wrapped(text: str, font: FreeTypeFont | ImageFont, width: int) -> list[str]:
    """Return the lines of `text` at most `width` pixels wide; longer words are truncated."""
    lines = [""]
    for word in text.encode("utf-8", "replace").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fit(line, font, width) for line in lines]


def _columns(count: int) -> int:
    """Return a number of columns for a sheet slightly wider than high, with a full last row if a close divisor exists."""
    ideal = (1.4 * count) ** 0.5
    whole = [c for c in range(1, count + 1) if count % c == 0 and 0.7 * ideal <= c <= 1.5 * ideal]
    return min(whole, key=lambda c: abs(c - ideal)) if whole else max(1, round(ideal))


def _fit(text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """Return `text` on one line, truncated with an ellipsis to `width` pixels."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if font.getlength(text) <= width:
        return text
    text = text[: int(len(text) * width / font.getlength(text)) + 1]  # near enough to start from
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
