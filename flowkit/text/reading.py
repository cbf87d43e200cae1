"""Sentences from a .txt (one a line) or a .jsonl, in UTF-8. What is not a sentence is an error that names its line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.errors import UserError, listing, nearest

SUFFIXES = (".txt", ".jsonl")
# Not whitespace to Python, and nothing to encode: zero-width characters, the byte-order mark, the soft hyphen.
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad "
MAX_LINE = 10_000_000  # bytes; a file without ends of lines must not fill the memory
MAX_MARKS = 1_000  # combining characters in a row: to put n of them in order takes n * n steps
_TOLD_EVERY = 1 << 14  # lines between two words on the progress


@dataclass
class Sentences:
    texts: list[str]
    numbers: np.ndarray  # (N,) int64: of the line that each text stands in, counted from 1
    read: int  # lines of the file
    empty: tuple[int, ...] = ()  # numbers of the lines that were left out because nothing stands in them

    def __len__(self) -> int:
        return len(self.texts)


def read_sentences(
    path: Path | str,
    *,
    text_key: str = "text",
    skip_empty: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Sentences:
    """The sentences of a file, in their order, each in Unicode's NFC and with single spaces for whitespace.

    `progress` is told how many bytes are read, of how many. Raises UserError: no such file, no UTF-8, a .jsonl line
    without a string at `text_key`, and lines with nothing in them, unless `skip_empty` leaves those out.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: is no file of sentences; expected {' or '.join(SUFFIXES)}, a sentence a line")
    take = (lambda line, where: line) if path.suffix.lower() == ".txt" else _from_json(text_key)
    texts: list[str] = []
    lines: list[int] = []
    empty: list[int] = []
    number = 0
    for number, line in _lines(path, progress):
        text = line if not line.strip() else take(line, f"{path}: line {number:,}")
        if not text.isascii() and len(text) > MAX_MARKS and _longest_run_of_marks(text) > MAX_MARKS:
            raise UserError(
                f"{path}: line {number:,}: has more than {MAX_MARKS:,} combining characters in a row; it is no text"
            )
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if text.strip(INVISIBLE):
            texts.append(text)
            lines.append(number)
        else:
            empty.append(number)
    if empty and not skip_empty:
        what = "line" if len(empty) == 1 else "lines"
        raise UserError(
            f"{path}: {what} {listing([f'{n:,}' for n in empty], 10)} {'is' if len(empty) == 1 else 'are'} empty; expected a "
            f"sentence in each of the {number:,} lines. Remove the empty ones, or leave them out with --skip-empty"
        )
    if not texts:
        raise UserError(f"{path}: holds no sentences; expected one a line")
    return Sentences(texts, np.array(lines, np.int64), number, tuple(empty))


def _lines(path: Path, progress: Callable[[int, int], object] | None) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of each line. Raises UserError."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file of sentences"
            )
        with path.open("rb") as file:
            total, done = path.stat().st_size, 0
            number = 0
            while raw := file.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    raise UserError(
                        f"{path}: line {number:,}: is longer than {MAX_LINE // 1_000_000} MB; expected a sentence a line"
                    )
                done += len(raw)
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield number, _decoded(raw, f"{path}: line {number:,}", path)
                if progress and (number % _TOLD_EVERY == 0 or done == total):
                    progress(done, total)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


def _decoded(raw: bytes, where: str, path: Path) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw:
        mend = f"convert it: iconv -f utf-16 -t utf-8 {path} > utf8{path.suffix}"
        raise UserError(f"{where}: is not UTF-8 (it looks like UTF-16, or is no text at all); {mend}")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        mend = f"convert the file, for instance: iconv -f latin1 -t utf-8 {path} > utf8{path.suffix}"
        byte = f"byte {error.start + 1:,} (0x{raw[error.start]:02x})"
        raise UserError(f"{where}, {byte}: is not UTF-8; {mend}") from None


def _from_json(text_key: str) -> Callable[[str, str], str]:
    def text_of(line: str, where: str) -> str:
        expected = f'expected {{"{text_key}": "..."}}'
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: is no JSON ({error}); {expected}") from None
        if not isinstance(found, dict):
            raise UserError(f"{where}: is no JSON object; {expected}")
        if text_key not in found:
            keys = listing(map(repr, found), 8) or "none"
            raise UserError(
                f"{where}: has no {text_key!r} (its keys: {keys}){nearest(text_key, found)}; name the key of the "
                "sentences with --text-key"
            )
        if not isinstance(found[text_key], str):
            raise UserError(f"{where}: {text_key!r} is {type(found[text_key]).__name__}; {expected}")
        try:
            found[text_key].encode("utf-8")
        except UnicodeEncodeError:  # JSON may escape half of a surrogate pair
            raise UserError(f"{where}: {text_key!r} holds half of a surrogate pair, which is no character") from None
        return found[text_key]

    return text_of
