"""Samples in the space available: pictures with titles in a grid, sentences in a list."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flowkit.domain import Preview
from flowkit.ui.sentences_view import sentence_list

GAP = 2  # cells between pictures
BLANK = " \u2800"  # characters through which `behind` shows


def preview_grid(previews: Sequence[Preview], width: int, height: int | None = None, caption: str = "") -> list[Text]:
    """Draw previews in at most `height` lines of at most `width` cells. `caption` says what their remarks mean.

    Previews of one line each are sentences, and are listed. Pictures stand side by side, each below its title. Only whole
    pictures are shown: the result is empty if not even one row of them fits. Pictures that come in several sizes are
    shown in the size that covers most of the place. A picture wider than `width` is cut at its right.
    """
    if not previews or width < 1:
        return []
    if all(len(preview.lines) == 1 for preview in previews):
        return sentence_list(previews, width, height, caption)
    if height is not None:
        sizes = [previews, *zip(*(preview.sizes for preview in previews), strict=False)]
        previews = max(sizes, key=lambda size: _covered(size, width, height))
    cell, columns = _columns(previews, width)
    lines: list[Text] = []
    for start in range(0, len(previews), columns):
        row = previews[start : start + columns]
        drawn = _row(row, cell, max(len(preview.lines) for preview in row))
        separator = [Text()] if lines else []
        if height is not None and len(lines) + len(separator) + len(drawn) > height:
            break
        lines += separator + drawn
    return lines


def _columns(previews: Sequence[Preview], width: int) -> tuple[int, int]:
    """Return the width of a picture and the number of pictures per row."""
    cell = min(width, max(_width(preview) for preview in previews))
    return cell, max(1, (width + GAP) // (cell + GAP))


def _covered(previews: Sequence[Preview], width: int, height: int) -> int:
    """Return the number of cells that pictures of this size would cover. 0 if none fits."""
    wide, rows = len(previews[0].lines[0]), len(previews[0].lines)
    _, columns = _columns(previews, width)
    shown = min(len(previews), columns * ((height + 1) // (rows + 2)))  # a title above, a blank line between
    return shown * wide * rows if wide <= width else 0


def _width(preview: Preview) -> int:
    return max([cell_len(line) for line in preview.lines] + [min(24, cell_len(_title(preview)))], default=1)


def _title(preview: Preview) -> str:
    return f"{preview.title}  {preview.note}" if preview.note else preview.title


def _row(previews: Sequence[Preview], cell: int, rows: int) -> list[Text]:
    gap = " " * GAP
    titles = Text()
    for preview in previews:
        title = Text(preview.title, "bold cyan")
        if preview.note:
            title.append(f"  {preview.note}", "dim")
        title.truncate(cell, overflow="ellipsis", pad=True)
        titles.append_text(title)
        titles.append(gap)
    titles.rstrip()
    lines = [titles]
    for i in range(rows):
        parts = [_line(preview, i, cell) for preview in previews]
        lines.append(Text(gap).join(parts))
        lines[-1].rstrip()
    return lines


def _line(preview: Preview, number: int, cell: int) -> Text:
    line = preview.lines[number] if number < len(preview.lines) else ""
    if number >= len(preview.behind):
        return Text(set_cell_size(line, cell))
    drawn = Text()
    for front, back in zip(line, preview.behind[number], strict=True):
        drawn.append(*((back, "dim") if front in BLANK else (front, "")))
    drawn.truncate(cell, pad=True)
    return drawn
