"""The sentences of prepared vectors: `<name>.jsonl`, one `{"text": ...}` per row, read on demand.

Training on a million vectors does not read their sentences: the file is mapped, and a line is parsed when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError


class TextLines(Sequence[str]):
    """The texts of a .jsonl with `count` lines. Raises UserError at first access if lines and rows differ in number."""

    def __init__(self, path: Path, count: int):
        self.path, self.rows = path, count

    def __len__(self) -> int:
        return self.rows

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.rows))]
        row = index + self.rows if index < 0 else index
        if not 0 <= row < self.rows:
            raise IndexError(index)
        starts, content = self._lines
        return self._parse(bytes(content[starts[row] : starts[row + 1]]), row)

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(self.rows))

    @cached_property
    def _lines(self) -> tuple[np.ndarray, np.ndarray]:
        """(start of each line and the end, the mapped bytes of the file)."""
        try:
            empty = self.path.stat().st_size == 0
            content = np.empty(0, np.uint8) if empty else np.memmap(self.path, np.uint8, mode="r")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        ends = np.flatnonzero(content == ord("\n")) + 1
        if len(content) and (not len(ends) or ends[-1] != len(content)):
            ends = np.append(ends, len(content))  # last line without a newline
        if len(ends) != self.rows:
            raise UserError(
                f"{self.path}: has {len(ends):,} lines, but the data has {self.rows:,} rows; expected one line per row. "
                "Prepare the data again, or remove the file to continue without sentences"
            )
        return np.concatenate(([0], ends)), content

    def _parse(self, line: bytes, row: int) -> str:
        try:
            text = parse_json(line.decode("utf-8"))["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise UserError(f'{self.path}: line {row + 1} is not {{"text": "..."}}; prepare the data again')
        return text


def write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write `texts`, one JSON object per line. Raises OSError."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
