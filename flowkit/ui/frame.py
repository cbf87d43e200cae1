"""Lines kept at the foot of a terminal and repainted in place, while whatever others print scrolls by above them.

Rich's Live blanks every line before it writes it anew, and loses count of its lines when the window narrows. Here a
line is overwritten and then cleared to its right, a whole repaint is one write, and a resize is reckoned with.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import IO, Any, TextIO

from rich.text import Text

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE_RIGHT, CLEAR_BELOW = "\x1b[K", "\x1b[J"


class Frame:
    """Owns the foot of the terminal between `open` and `close`. Safe to call from several threads."""

    def __init__(self, stream: IO[str], width: Callable[[], int]) -> None:
        """width: the terminal's present width in cells."""
        self._stream = stream
        self._width = width
        self._lines: list[str] = []  # as last painted
        self._painted_width = 0
        self._lock = threading.RLock()  # re-entrant: a signal handler may print while its thread paints
        self._open = False
        self._restore: list[Callable[[], None]] = []

    def open(self) -> None:
        self._open = True
        self._write(HIDE_CURSOR)
        atexit.register(self.close)
        for name in ("stdout", "stderr"):
            original = getattr(sys, name)
            if original is not None and _is_terminal(original):
                proxy = Above(original, self.print_above)
                setattr(sys, name, proxy)
                self._restore.append(
                    lambda name=name, original=original, proxy=proxy: _give_back(name, original, proxy)
                )

    def close(self) -> None:
        """Leaves what was last painted where it is, with the cursor below it. Does nothing the second time."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            while self._restore:
                self._restore.pop()()
            self._write(SHOW_CURSOR)
        atexit.unregister(self.close)

    def paint(self, lines: list[str], *, whole: bool = True) -> None:
        """Put `lines` (with ANSI styles, each narrower than the terminal) where the last ones stood.

        Without `whole`, only the lines that changed are written: little to send, but it does not mend what a native
        library or an Enter key did to the screen.
        """
        with self._lock:
            if not self._open:
                return
            width = self._width()
            same = not whole and width == self._painted_width and len(lines) == len(self._lines)
            body = "".join(
                "\r\n" if same and line == before else _line(line)
                for line, before in zip(lines, self._lines if same else lines, strict=True)
            )
            self._write(self._to_top() + body + CLEAR_BELOW)
            self._lines, self._painted_width = lines, width

    def print_above(self, text: str) -> None:
        """Print whole lines for good, above the frame."""
        with self._lock:
            if not self._open:
                self._write(text)
                return
            # CR LF: a library that meddles with the terminal may have switched its own translation off
            body = "".join(line + "\r\n" for line in text.splitlines())
            self._write(self._to_top() + CLEAR_BELOW + body + "".join(map(_line, self._lines)))
            self._painted_width = self._width()

    def _to_top(self) -> str:
        """Terminals wrap what no longer fits when they narrow, so that a line may take several rows by now."""
        width = max(1, self._width())
        if width >= self._painted_width:
            rows = len(self._lines)
        else:
            rows = sum(max(1, -(-Text.from_ansi(line).cell_len // width)) for line in self._lines)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal has gone, or its stream was closed; the run goes on without a view
            self._open = False


def _line(line: str) -> str:
    return line + CLEAR_LINE_RIGHT + "\r\n"


class Above:
    """Stands in for sys.stdout or sys.stderr: whole lines go above the frame, an unfinished one waits for its end."""

    def __init__(self, stream: TextIO, print_above: Callable[[str], None]) -> None:
        self._original = stream
        self._print_above = print_above
        self._pending = ""
        self._process: int | None = os.getpid()

    def write(self, text: str) -> int:
        if os.getpid() != self._process:  # a forked worker: the frame, and perhaps its held lock, are its parent's
            return self._original.write(text)
        whole, newline, rest = (self._pending + text).rpartition("\n")
        self._pending = rest
        if newline:
            # of a line that was rewritten with carriage returns only the last state counts
            self._print_above("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n")) + "\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if os.getpid() != self._process:
            self._original.flush()

    def finish(self) -> None:
        """From now on write straight to the original, an unfinished line first: a logger may keep this object."""
        self._process = None
        if self._pending:
            self._original.write(self._pending + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _is_terminal(stream: TextIO) -> bool:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return stream.isatty()
    return False


def _give_back(name: str, original: TextIO, proxy: Above) -> None:
    if getattr(sys, name) is proxy:  # else somebody has put his own in its place since
        setattr(sys, name, original)
    proxy.finish()
