"""The sentences beside prepared vectors: `<name>.jsonl`, one `{"text": ...}` a row, found by line when asked for.

A million sentences are not read to train on their vectors: the file is mapped, and a line is parsed when someone looks.
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
    """The texts of a .jsonl of `count` lines. Raises UserError at the first look, where lines and rows differ in number."""

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
        """(where each line starts, and the end; the file's bytes, mapped)."""
        try:
            empty = self.path.stat().st_size == 0
            content = np.empty(0, np.uint8) if empty else np.memmap(self.path, np.uint8, mode="r")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        ends = np.flatnonzero(content == ord("\n")) + 1
        if len(content) and (not len(ends) or ends[-1] != len(content)):
            ends = np.append(ends, len(content))  # a last line without its newline
        if len(ends) != self.rows:
            raise UserError(
                f"{self.path}: has {len(ends):,} lines, and the data has {self.rows:,} rows; expected a line for each row. "
                "Prepare the data again, or remove the file to go on without sentences"
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
    """Write `texts`, one JSON object a line. Raises OSError where it cannot."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
