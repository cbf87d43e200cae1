"""Sentences in a terminal: samples as a list with remarks, decoded rows as a table with a column per language."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from flowkit.domain import Preview

GAP = "  "
LEAST = 24  # cells that a sentence needs beside other columns
MOST_TITLE, MOST_REMARK = 16, 28
TITLE, REMARK, HEADER = "dim", "cyan", "bold cyan"
Cells = list[Text]  # of a line
Body = Iterator[list[Cells]]  # the lines of each row


def one_line(text: str) -> str:
    """Make `text` safe for one terminal line: control characters and line breaks become spaces."""
    shown = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    return " ".join(shown.split())


def wrapped(text: str, width: int) -> list[str]:
    """Wrap `text` to lines of at most `width` cells (at least 2), between words. Words longer than a line are split.

    Wide characters count two cells and combining ones none.
    """
    width, lines, line = max(2, width), [], ""
    for word in one_line(text).split(" "):
        first, *more = chop_cells(word, width) if cell_len(word) > width else [word]
        if line and cell_len(line) + 1 + cell_len(first) <= width:
            line = f"{line} {first}"
        else:
            lines += [line] if line else []
            line = first
        for piece in more:
            lines.append(line)
            line = piece
    return [*lines, line]


def cut(lines: Sequence[str], most: int, width: int) -> list[str]:
    """Return the first `most` (at least one) of `lines`. If some are left out, the last one ends in "…"."""
    if len(lines) <= most:
        return list(lines)
    last = " ".join(lines[most - 1 : most + 1])
    return [*lines[: most - 1], set_cell_size(last, max(0, min(cell_len(last), width - 1))).rstrip() + "…"]


def sentence_list(previews: Sequence[Preview], width: int, height: int | None = None, caption: str = "") -> list[Text]:
    """List title, remark and sentence, in at most `height` lines of at most `width` cells.

    Every sentence gets a line. Lines that are left go to sentences that need more than one. In a narrow terminal titles
    are dropped first, then remarks. `caption` is the heading of the remarks.
    """
    titles, remarks = (
        [one_line(preview.title) for preview in previews],
        [one_line(preview.note) for preview in previews],
    )
    sizes = [min(MOST_TITLE, max(map(cell_len, titles))), min(MOST_REMARK, max(map(cell_len, remarks)))]
    for i in range(len(sizes)):
        if width - sum(size + len(GAP) for size in sizes if size) < LEAST:
            sizes[i] = 0
    lead = sum(size + len(GAP) for size in sizes if size)
    room = max(2, width - lead)
    header: list[Text] = []
    if caption and sizes[1] and (height is None or height > len(previews)):
        header = [Text(" " * (lead - sizes[1] - len(GAP)) + one_line(caption), TITLE)]
        header[0].truncate(width, overflow="ellipsis")
    sentences = [wrapped(preview.lines[0], room) for preview in previews]
    if height is not None:
        sentences = _fitted(sentences, height - len(header), room)
    lines: list[Text] = [*header]
    for title, remark, sentence in zip(titles, remarks, sentences, strict=False):
        start = Text()
        for shown, size, style in zip((title, remark), sizes, (TITLE, REMARK), strict=True):
            if size:
                start.append_text(_aside(shown, size, style)).append(GAP)
        lines.append(start.append(sentence[0]))
        lines += [Text(" " * lead + more) for more in sentence[1:]]
    return lines


def sentence_table(
    columns: Mapping[str, Sequence[str]], width: int, remarks: Sequence[str] = (), remark: str = ""
) -> Iterator[Text]:
    """Yield lines of at most `width` cells: row numbers, `remarks` under the heading `remark`, and a column per name.

    If the columns would be too narrow to read, a row's sentences stand below each other, each with its name.
    """
    rows = len(next(iter(columns.values())))
    digits = len(str(max(0, rows - 1)))
    aside = max(map(cell_len, (remark, *remarks))) if remarks else 0
    room = width - digits - len(GAP) - (aside + len(GAP) if aside else 0)
    beside = len(columns) == 1 or (room + len(GAP)) // len(columns) - len(GAP) >= LEAST
    header, body = (_beside if beside else _below)(columns, room)

    def lead(number: str, remark: str, style: str) -> list[Text]:
        return [_aside(number, digits, TITLE)] + ([_aside(remark, aside, style)] if aside else [])

    if header or aside:
        yield _joined([*lead("", remark, HEADER), *header])
    for row, lines in enumerate(body):
        start = lead(str(row), remarks[row] if aside else "", REMARK)
        for cells in lines:
            yield _joined([*start, *cells])
            start = lead("", "", "")


def _beside(columns: Mapping[str, Sequence[str]], room: int) -> tuple[Cells, Body]:
    """Return the header, and each row's sentences in columns side by side."""
    longest = {name: max(cell_len(one_line(text)) for text in (name, *texts)) for name, texts in columns.items()}
    sizes = _shared(longest, room - len(GAP) * (len(columns) - 1))

    def body() -> Body:
        for texts in zip(*columns.values(), strict=True):
            cells = [wrapped(text, size) for text, size in zip(texts, sizes.values(), strict=True)]
            yield [[_cell(part, size) for part, size in zip(parts, sizes.values(), strict=True)]
                   for parts in zip_longest(*cells, fillvalue="")]  # fmt: skip

    return [_cell(name, size, HEADER) for name, size in sizes.items()], body()


def _below(columns: Mapping[str, Sequence[str]], room: int) -> tuple[Cells, Body]:
    """Return an empty header, and each row's sentences below each other, each with its name."""
    label = max(map(cell_len, columns))

    def body() -> Body:
        for texts in zip(*columns.values(), strict=True):
            yield [[_cell("" if i else name, label, TITLE), Text(part)]
                   for name, text in zip(columns, texts, strict=True)
                   for i, part in enumerate(wrapped(text, room - label - len(GAP)))]  # fmt: skip

    return [], body()


def _fitted(sentences: Sequence[list[str]], height: int, room: int) -> list[list[str]]:
    """Give each sentence one line, then hand out the remaining lines in turns to those that need more."""
    shown = list(sentences[: max(0, height)])
    most, spare = [1] * len(shown), height - len(shown)
    while spare > 0 and (waiting := [i for i, sentence in enumerate(shown) if len(sentence) > most[i]]):
        for i in waiting[:spare]:
            most[i] += 1
        spare -= len(waiting)
    return [cut(sentence, lines, room) for sentence, lines in zip(shown, most, strict=True)]


def _shared(longest: Mapping[str, int], room: int) -> dict[str, int]:
    """Share out `room`: short columns get what they need, and the others equal parts of the rest."""
    sizes: dict[str, int] = {}
    waiting = dict(longest)
    while waiting:
        share = max(2, room // len(waiting))
        settled = [name for name, size in waiting.items() if size <= share] or list(waiting)
        for name in settled:
            sizes[name] = min(waiting.pop(name), share)
            room -= sizes[name]
    return {name: sizes[name] for name in longest}


def _cell(text: str, size: int, style: str = "") -> Text:
    """Return `text` in exactly `size` cells."""
    cell = Text(text, style)
    cell.truncate(size, overflow="ellipsis", pad=True)
    return cell


def _aside(text: str, size: int, style: str) -> Text:
    """Return a title or remark in exactly `size` cells: numbers aligned right, words left."""
    text = text.rjust(size) if text[:1].isdigit() or text[:1] in "-+" else text
    return _cell(text, size, style)


def _joined(cells: Sequence[Text]) -> Text:
    line = Text(GAP).join(cells)
    line.rstrip()
    return line
