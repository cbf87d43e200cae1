"""The state of reading one file, and the choice of the column with the sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowkit.errors import UserError, listing, nearest
from flowkit.sources.files import Entry, Files

USUAL = (
    "text",
    "sentence",
    "sentences",
    "content",
    "document",
    "body",
    "utterance",
    "caption",
    "phrase",
    "word",
)  # usual names of the column, best first


class Row(NamedTuple):
    number: int  # row number from 1; the line number in a file of lines
    line: int  # line in the file, for messages
    text: str | None


@dataclass
class Reading:
    """How one file is read, and notes made while reading it."""

    files: Files
    entry: Entry
    where: str  # location of the file, for messages
    column: str | None = None  # requested column: a name, or a number from 1
    notes: list[str] = field(default_factory=list)
    tell_bytes: Callable[[int], object] = lambda read: None  # receives the bytes of this file read so far

    def error(self, line: int | None, what: str) -> UserError:
        return UserError(f"{self.where}: line {line:,}: {what}" if line else f"{self.where}: {what}")


def choose_column(reading: Reading, columns: dict[str, list[Any]], texts: dict[str, list[Any]]) -> str:
    """Return the column of the sentences: the one asked for, one with a usual name, or the only one of text. Adds a note.

    columns: some values of each column; texts: the columns that can be sentences. Raises UserError, showing the columns, if
    the choice is ambiguous.
    """
    column = _asked(reading, columns, texts) if reading.column is not None else _evident(texts)
    if column is None:
        raise reading.error(
            None, f"cannot tell which column holds the sentences; name it with --column. {_shown(columns)}"
        )
    if len(columns) > 1 or column not in USUAL[:1]:
        others = listing((name for name in columns if name != column), 8)
        reading.notes.append(f"sentences: column {column!r}" + (f"; not read: {others}" if others else ""))
    return column


def _asked(reading: Reading, columns: dict[str, list[Any]], texts: dict[str, list[Any]]) -> str:
    asked, names = str(reading.column), list(columns)
    alike = [name for name in names if name.strip().lower() == asked.strip().lower()]
    found = asked if asked in columns else alike[0] if len(alike) == 1 else None
    if found is None and asked.isdecimal() and 1 <= int(asked) <= len(names):
        found = names[int(asked) - 1]
    if found is None:
        raise reading.error(None, f"has no column {asked!r}{nearest(asked, names) or '.'} {_shown(columns)}")
    if found not in texts:
        raise reading.error(None, f"column {found!r} is not text. {_shown(columns)}")
    return found


def _evident(texts: dict[str, list[Any]]) -> str | None:
    if len(texts) == 1:
        return next(iter(texts))
    for usual in USUAL:
        named = [name for name in texts if name.strip().lower() == usual]
        if len(named) == 1:
            return named[0]
    prose = [name for name, values in texts.items() if is_prose(_flat(values))]
    return prose[0] if len(prose) == 1 else None


def _flat(values: Sequence[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _shown(columns: dict[str, list[Any]]) -> str:
    """Return the columns, each with an example: 'id' (17), 'eng' (A cat.), ..."""

    def example(values: list[Any]) -> str:
        text = " ".join(str(next((value for value in values if value not in (None, "")), "empty")).split())
        return text if len(text) <= 32 else text[:31].rstrip() + "..."

    return "Its columns: " + listing((f"{name!r} ({example(values)})" for name, values in columns.items()), 8)


def is_prose(values: Sequence[Any]) -> bool:
    """Return whether most values are long or have several words."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and 2 * sum(len(text.split()) > 1 or len(text) > 40 for text in texts) > len(texts)
