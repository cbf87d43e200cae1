"""The screen of the live view: the terminal's alternate screen, as editors and `top` use it.

At the bottom of the normal screen, a view this tall would break on a resize: the terminal wraps its lines and moves them to
the scrollback before the program is notified. The alternate screen has no scrollback and never wraps.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, Any, TextIO

# Alternate screen, no cursor, no automatic line wrap; and the reverse. Terminals without an alternate screen ignore the
# first code, so the screen is cleared on entering and on leaving.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[J"
LEAVE = "\x1b[H\x1b[J\x1b[?7h\x1b[?25h\x1b[?1049l"
CLEAR_LINE_RIGHT, CLEAR_BELOW = "\x1b[K", "\x1b[J"
KEPT = 10_000  # printed lines that are held back for the normal screen; the earliest are dropped beyond that


class Frame:
    """Owns the terminal between `open` and `close`. Thread-safe.

    What other code prints meanwhile is kept in `printed`, and goes to the normal screen at the end.
    """

    def __init__(self, stream: IO[str], size: Callable[[], tuple[int, int]]) -> None:
        """size: the terminal's current width and height in cells."""
        self.printed: deque[str] = deque(maxlen=KEPT)
        self._stream = stream
        self._size = size
        self._lines: list[str] = []  # as last painted
        self._painted_size = (0, 0)
        self._lock = threading.RLock()  # re-entrant: a signal handler may print while its thread paints
        self._open = False
        self._restore: list[Callable[[], object]] = []

    def open(self) -> None:
        self._open = True
        self._write(ENTER)
        atexit.register(self.close)
        for name in ("stdout", "stderr"):
            original = getattr(sys, name)
            if original is not None and _is_terminal(original):
                proxy = Kept(original, self.keep)
                setattr(sys, name, proxy)
                self._restore.append(
                    lambda name=name, original=original, proxy=proxy: _give_back(name, original, proxy)
                )
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTSTP, self._suspend)
            self._restore.append(lambda: signal.signal(signal.SIGTSTP, before))

    def close(self) -> None:
        """Print what was kept, then the last frame, on the normal screen. A second call does nothing."""
        with self._lock:
            if not self._open:
                return
            self._write(LEAVE + "".join(line + "\r\n" for line in (*self.printed, *self._lines)))
            self._open = False
            while self._restore:
                self._restore.pop()()
        atexit.unregister(self.close)

    def paint(self, lines: list[str], *, whole: bool = True) -> None:
        """Show `lines` (with ANSI styles) from the top of the screen.

        Without `whole`, only the lines that changed are written: little to send, but it does not repair what a native
        library wrote over the screen.
        """
        with self._lock:
            if not self._open:
                return
            size = self._size()
            before = [] if whole or size != self._painted_size else self._lines
            changed = [number for number, line in enumerate(lines) if before[number : number + 1] != [line]]
            body = "".join(f"{_to(number)}{lines[number]}{CLEAR_LINE_RIGHT}" for number in changed)
            self._write(body + _to(len(lines)) + CLEAR_BELOW)
            self._lines, self._painted_size = lines, size

    def keep(self, text: str) -> None:
        """Hold back whole lines until the frame closes; print them at once when it is closed."""
        with self._lock:
            if self._open:
                self.printed.extend(text.splitlines())
            else:
                self._write(text)

    def _suspend(self, number: int, frame: object) -> None:
        """Ctrl-Z: give the shell its own screen, and take the alternate one again after fg."""
        with self._lock:
            self._write(LEAVE)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._write(ENTER)
            self._lines = []

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal or its stream is closed; the run continues without a view
            self._open = False


def _to(row: int) -> str:
    return f"\x1b[{row + 1};1H"


class Kept:
    """Stands in for sys.stdout or sys.stderr: passes whole lines on, and holds an unfinished line until it ends."""

    def __init__(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        self._original = stream
        self._keep = keep
        self._pending = ""
        self._process: int | None = os.getpid()

    def write(self, text: str) -> int:
        if os.getpid() != self._process:  # a forked worker: the frame, and perhaps its held lock, belong to its parent
            return self._original.write(text)
        whole, newline, rest = (self._pending + text).rpartition("\n")
        self._pending = rest
        if newline:
            # Of a line rewritten with carriage returns, keep the last state.
            self._keep("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n")) + "\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if os.getpid() != self._process:
            self._original.flush()

    def finish(self) -> None:
        """Write straight to the original from now on, an unfinished line first: a logger may keep this object."""
        self._process = None
        if self._pending:
            self._original.write(self._pending + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _is_terminal(stream: TextIO) -> bool:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return stream.isatty()
    return False


def _give_back(name: str, original: TextIO, proxy: Kept) -> None:
    if getattr(sys, name) is proxy:  # otherwise other code has replaced it since
        setattr(sys, name, original)
    proxy.finish()
