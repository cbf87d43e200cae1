"""The live view's screen, checked on a small terminal emulator: what a user sees, not what was written."""

import os
import re
import signal
import sys
from typing import IO, TextIO, cast

import pytest

from flowkit.ui.frame import Frame, Kept

TOKEN = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)")


class Terminal:
    """Two screens of text, each with a cursor. Knows the few codes that the frame uses, and refuses others.

    The normal screen wraps at `width` and keeps what scrolls off it; the alternate one has `height` rows and crops.
    """

    def __init__(self, width: int = 40, height: int = 50, tty: bool = True):
        self.width, self.height, self.tty = width, height, tty
        self.alternate, self.wraps = False, True
        self._kept = ([""], 0, 0)  # the screen that is not shown
        self.rows, self.row, self.column = [""], 0, 0
        self.cursor_visible, self.raw = True, ""
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        self.raw += text
        for private, number, code, move, plain in TOKEN.findall(text):
            if plain:
                for char in plain:
                    self._put(char)
            elif move == "\r":
                self.column = 0
            elif move == "\n":  # the line discipline adds the carriage return
                self._down()
                self.column = 0
            elif code == "H" and not private:
                assert self.alternate, "the cursor may be placed on the alternate screen only"
                row, column = (int(part) for part in (number or "1;1").split(";"))
                self.row, self.column = min(row, self.height) - 1, column - 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif code == "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            elif code == "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            elif private and number == "25":
                self.cursor_visible = code == "h"
            elif private and number == "7":
                self.wraps = code == "h"
            elif private and number == "1049" and self.alternate != (code == "h"):
                self.alternate = code == "h"
                self._kept, (self.rows, self.row, self.column) = (self.rows, self.row, self.column), self._kept
            elif code != "m":
                raise AssertionError(f"unknown code {private}{number}{code}")
        return len(text)

    def _put(self, char: str) -> None:
        if self.column == self.width:
            if not self.wraps:
                return
            self._down()
            self.column = 0
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.tty

    def resize(self, width: int, height: int) -> None:
        """As terminals do: the normal screen wraps what no longer fits, the alternate one crops it."""
        self.width, self.height = width, height
        if self.alternate:
            self.rows = [row[:width] for row in self.rows[:height]]
            self.row = min(self.row, height - 1)
        rows, row, column = self._kept if self.alternate else (self.rows, self.row, self.column)
        wrapped = [row[j : j + width] for row in rows for j in range(0, max(1, len(row)), width)]
        row = min(row, len(wrapped) - 1)
        if self.alternate:
            self._kept = (wrapped, row, column)
        else:
            self.rows, self.row = wrapped, row

    @property
    def screen(self) -> list[str]:
        """What the current screen shows."""
        return _text(self.rows)

    @property
    def normal(self) -> list[str]:
        """What the normal screen holds, with its scrollback, also while the alternate one is shown."""
        return _text(self._kept[0] if self.alternate else self.rows)


def _text(rows: list[str]) -> list[str]:
    return "\n".join(row.rstrip() for row in rows).rstrip("\n").split("\n")


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def frame(terminal):
    return Frame(cast(IO[str], terminal), lambda: (terminal.width, terminal.height))


@pytest.fixture
def opened(terminal, frame, monkeypatch):
    """Call it to open the frame on the test's own stdout and stderr. (pytest puts its own in place after set-up.)"""

    def open_frame():
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        frame.open()

    yield open_frame
    frame.close()


@pytest.mark.parametrize("whole", [True, False])
def test_a_repaint_takes_the_place_of_the_last_one(terminal, frame, whole, opened):
    opened()
    frame.paint(["one", "a longer line", "three"])
    frame.paint(["ONE", "short", "three"], whole=whole)
    assert terminal.screen == ["ONE", "short", "three"]
    frame.paint(["fewer"], whole=whole)
    assert terminal.screen == ["fewer"]
    frame.paint(["now", "more", "again"], whole=whole)
    assert terminal.screen == ["now", "more", "again"]


def test_a_partial_repaint_sends_only_what_changed(terminal, frame, opened):
    opened()
    frame.paint(["x" * 30, "step 1", "y" * 30])
    terminal.raw = ""
    frame.paint(["x" * 30, "step 2", "y" * 30], whole=False)
    assert "step 2" in terminal.raw
    assert "x" not in terminal.raw and "y" not in terminal.raw
    assert terminal.screen == ["x" * 30, "step 2", "y" * 30]


def test_prints_are_kept_for_the_normal_screen(terminal, frame, opened):
    terminal.write("$ flowkit train\n")
    opened()
    frame.paint(["top", "bottom"])
    print("hello")
    print("half a ", end="")
    assert [*frame.printed] == ["hello"]
    print("line")
    sys.stderr.write("a warning\nin two lines\n")
    assert terminal.screen == ["top", "bottom"]
    assert terminal.normal == ["$ flowkit train"]
    frame.paint(["top", "BOTTOM"])
    frame.close()
    assert terminal.screen == ["$ flowkit train", "hello", "half a line", "a warning", "in two lines", "top", "BOTTOM"]


def test_rewritten_line_keeps_its_last_state(terminal, frame, opened):
    opened()
    frame.paint(["view"])
    sys.stderr.write("  0%\r 50%\r100%")
    sys.stderr.write("\n")
    assert [*frame.printed] == ["100%"]


@pytest.mark.parametrize("sizes", [[(25, 20)], [(25, 20), (60, 50)], [(39, 4), (12, 4), (80, 24), (20, 50)]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_resize_leaves_no_traces(terminal, frame, opened, sizes, whole):
    terminal.write("before\n")
    opened()
    lines = ["a" * 39, "b" * 10, "c" * 39]
    frame.paint(lines)
    for width, height in sizes:
        terminal.resize(width, height)
        lines = ["a" * (width - 1), "b" * min(10, width - 1), "c" * (width - 1)]
        frame.paint(lines, whole=whole)
        assert terminal.screen == lines
        assert terminal.normal == ["before"]
    frame.close()
    assert terminal.screen == ["before", *lines]


def test_a_frame_drawn_for_a_wider_window_does_not_wrap(terminal, frame, opened):
    """The window may narrow between the drawing of the lines and their painting."""
    opened()
    terminal.resize(20, 10)
    frame.paint(["a" * 39, "b" * 10])
    frame.paint(["A" * 39, "b" * 10], whole=False)
    assert terminal.screen == ["A" * 20, "b" * 10]


def test_what_a_resize_cropped_is_painted_again(terminal, frame, opened):
    opened()
    frame.paint(["a" * 39, "b" * 10])
    terminal.resize(20, 10)
    terminal.resize(60, 10)
    frame.paint(["a" * 39, "b" * 10], whole=False)
    assert terminal.screen == ["a" * 39, "b" * 10]


def test_ctrl_z_gives_the_shell_its_screen(terminal, frame, opened, monkeypatch):
    terminal.write("$ flowkit train\n")
    opened()
    frame.paint(["one", "two"])
    shown = []
    monkeypatch.setattr(
        os, "kill", lambda process, number: shown.append((number, terminal.cursor_visible, terminal.screen))
    )
    signal.raise_signal(signal.SIGTSTP)
    assert shown == [(signal.SIGSTOP, True, ["$ flowkit train"])]
    frame.paint(["one", "two"], whole=False)
    assert terminal.screen == ["one", "two"] and not terminal.cursor_visible
    frame.close()
    assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL


def test_closing_restores_the_terminal(terminal, frame, opened):
    opened()
    assert not terminal.cursor_visible
    assert sys.stdout is not terminal
    frame.paint(["the end"])
    print("unfinished", end="")
    held = sys.stderr
    frame.close()
    assert terminal.cursor_visible and terminal.wraps and not terminal.alternate
    assert sys.stdout is terminal and sys.stderr is terminal
    assert terminal.screen == ["the end", "unfinished"]
    held.write("a logger that kept the stream\n")
    assert terminal.screen[-1] == "a logger that kept the stream"
    frame.close()
    frame.paint(["never"])
    assert "never" not in terminal.raw


def test_a_stream_that_goes_to_a_file_is_left_alone(frame, monkeypatch):
    log = Terminal(tty=False)
    monkeypatch.setattr(sys, "stdout", log)
    frame.open()
    assert sys.stdout is log
    frame.close()


def test_closed_terminal_stops_the_view_not_the_run():
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    frame = Frame(cast(IO[str], Gone()), lambda: (40, 10))
    frame.open()
    frame.paint(["view"])
    frame.keep("text\n")
    frame.close()


def test_a_forked_worker_writes_straight_to_the_terminal(terminal):
    seen = []
    kept = Kept(cast(TextIO, terminal), seen.append)
    kept._process = os.getpid() + 1  # as in a child: its memory is the parent's, its id is not
    kept.write("from a worker\n")
    assert not seen
    assert terminal.screen == ["from a worker"]
