"""Lines of text from bytes: UTF-8, or UTF-16 with a byte-order mark, with any line ends and bounded length."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import IO

from flowkit.errors import Unreadable, UserError
from flowkit.sources.files import BROKEN_ZIP

MAX_LINE = 10_000_000  # bytes; limits memory for a file without line ends
_CHUNK = 1 << 16
_TOLD_EVERY = 1 << 14  # lines between two reports of progress
_UTF16 = {codecs.BOM_UTF16_LE: ("utf-16-le", b"\n\0", b"\r\0"), codecs.BOM_UTF16_BE: ("utf-16-be", b"\0\n", b"\0\r")}


def text_lines(stream: IO[bytes], where: str, tell_bytes: Callable[[int], object]) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text with its line end) of each line. tell_bytes: receives the bytes read. Raises UserError.

    Lines end with a line feed, or with a carriage return (old Macs) if the beginning of the file has no line feed.
    """
    try:
        start = stream.read(_CHUNK)
        encoding, feed, back = "utf-8", b"\n", b"\r"
        if start[:2] in _UTF16:
            encoding, feed, back = _UTF16[start[:2]]
            start = start[2:]
        else:
            start = start.removeprefix(codecs.BOM_UTF8)
        ends = feed if feed in start or back not in start else back
        done = 0
        for number, raw in enumerate(_split(start, stream, ends, len(feed), where), 1):
            done += len(raw)
            yield number, _decoded(raw, encoding, number, where)
            if number % _TOLD_EVERY == 0:
                tell_bytes(done)
        tell_bytes(done)
    except (Unreadable, *BROKEN_ZIP) as error:
        if isinstance(error, UserError) and not isinstance(error, Unreadable):
            raise
        raise UserError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _split(rest: bytes, stream: IO[bytes], end: bytes, width: int, where: str) -> Iterator[bytes]:
    """Yield pieces up to and including each `end`, at file offsets that are multiples of its width."""
    number = 1
    pattern = re.compile(re.escape(end))
    more = True
    while rest or more:
        at = 0
        for match in pattern.finditer(rest):
            if match.start() % width or match.end() <= at:  # half of one character and half of the next
                continue
            if match.end() - at > MAX_LINE:
                break
            yield rest[at : match.end()]
            number += 1
            at = match.end()
        rest = rest[at:]
        if len(rest) > MAX_LINE:
            raise UserError(
                f"{where}: line {number:,}: is longer than {MAX_LINE // 1_000_000} MB; expected one sentence per line"
            )
        chunk = stream.read(max(_CHUNK, len(rest)))
        more = bool(chunk)
        if not more:
            if rest:
                yield rest
            return
        rest += chunk


def _decoded(raw: bytes, encoding: str, number: int, where: str) -> str:
    place = f"{where}: line {number:,}"
    if encoding == "utf-8" and b"\x00" in raw:
        order = "be" if raw[:1] == b"\0" else "le"
        fix = f"convert it: iconv -f utf-16{order} -t utf-8 {where} > utf8.txt"
        raise UserError(
            f"{place}: is not UTF-8 (it looks like UTF-16 without a byte-order mark, or is not text); {fix}"
        )
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1:,} (0x{raw[error.start]:02x})"
        if encoding != "utf-8":
            raise UserError(f"{place}, {byte}: is not valid UTF-16; copy or write the file again") from None
        fix = f"convert the file, for instance: iconv -f latin1 -t utf-8 {where} > utf8.txt"
        raise UserError(f"{place}, {byte}: is not UTF-8; {fix}") from None
