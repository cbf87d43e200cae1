"""The frame at the terminal's foot, checked on a small terminal emulator: what one would see, not what was written."""

import os
import re
import sys
from typing import IO, TextIO, cast

import pytest

from flowkit.ui.frame import Above, Frame

TOKEN = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)")


class Terminal:
    """Rows of text and a cursor; wraps at `width`; knows the few codes that a frame may use and refuses others."""

    def __init__(self, width: int = 40, tty: bool = True):
        self.width, self.tty = width, tty
        self.rows, self.row, self.column = [""], 0, 0
        self.cursor_visible, self.raw = True, ""
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        self.raw += text
        for private, number, code, move, plain in TOKEN.findall(text):
            if plain:
                for char in plain:
                    if self.column == self.width:
                        self._down()
                        self.column = 0
                    row = self.rows[self.row].ljust(self.column)
                    self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
                    self.column += 1
            elif move == "\r":
                self.column = 0
            elif move == "\n":  # the line discipline adds the carriage return
                self._down()
                self.column = 0
            elif code == "A" and not private:
                self.row = max(0, self.row - int(number))
            elif code == "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            elif code == "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            elif private and number == "25":
                self.cursor_visible = code == "h"
            elif code != "m":
                raise AssertionError(f"unknown code {private}{number}{code}")
        return len(text)

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self.tty

    def narrow(self, width: int) -> None:
        """As terminals do: what no longer fits goes on in rows of its own."""
        old, cursor, rows = self.rows, 0, []
        for i, row in enumerate(old):
            if i == self.row:
                cursor = len(rows)
            rows += [row[j : j + width] for j in range(0, max(1, len(row)), width)]
        self.width, self.rows, self.row = width, rows, cursor

    @property
    def screen(self) -> list[str]:
        return "\n".join(row.rstrip() for row in self.rows).rstrip("\n").split("\n")


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def frame(terminal):
    return Frame(cast(IO[str], terminal), lambda: terminal.width)


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


def test_prints_scroll_by_above(terminal, frame, opened):
    opened()
    frame.paint(["top", "bottom"])
    print("hello")
    print("half a ", end="")
    assert terminal.screen == ["hello", "top", "bottom"]
    print("line")
    sys.stderr.write("a warning\nin two lines\n")
    frame.paint(["top", "BOTTOM"])
    assert terminal.screen == ["hello", "half a line", "a warning", "in two lines", "top", "BOTTOM"]


def test_of_a_line_rewritten_in_place_the_last_state_stays(terminal, frame, opened):
    opened()
    frame.paint(["view"])
    sys.stderr.write("  0%\r 50%\r100%")
    sys.stderr.write("\n")
    assert terminal.screen == ["100%", "view"]


def test_a_narrower_window_leaves_no_rests(terminal, frame, opened):
    opened()
    print("before")
    frame.paint(["a" * 39, "b" * 10, "c" * 39])
    terminal.narrow(25)
    frame.paint(["a" * 24, "b" * 10, "c" * 24])
    assert terminal.screen == ["before", "a" * 24, "b" * 10, "c" * 24]


def test_closing_gives_everything_back(terminal, frame, opened):
    opened()
    assert not terminal.cursor_visible
    assert sys.stdout is not terminal
    frame.paint(["the end"])
    print("unfinished", end="")
    held = sys.stderr
    frame.close()
    assert terminal.cursor_visible
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


def test_a_terminal_that_has_gone_stops_the_view_and_not_the_run():
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    frame = Frame(cast(IO[str], Gone()), lambda: 40)
    frame.open()
    frame.paint(["view"])
    frame.print_above("text\n")
    frame.close()


def test_a_forked_worker_writes_straight_to_the_terminal(terminal):
    seen = []
    above = Above(cast(TextIO, terminal), seen.append)
    above._process = os.getpid() + 1  # as in a child: its memory is the parent's, its id is not
    above.write("from a worker\n")
    assert not seen
    assert terminal.screen == ["from a worker"]
