"""Messages on stderr: whole lines for logs, lines that break between words for terminals."""

import os
import sys

import pytest

from flowkit.ui.message import say, wrapped
from tests.test_ui_frame import Terminal

KEPT = "runs/points keeps its checkpoint step-00000144; flowkit train runs/points --set run.name=a/b --resume continues"


@pytest.mark.parametrize("width", [20, 33, 60, 80, 200])
@pytest.mark.parametrize(
    "text", [KEPT, "a.toml: [optim] lr = 'fast' is not a number; expected one such as 1e-3", "two\nlines"]
)
def test_lines_break_between_words_and_never_in_a_command(text, width):
    lines = wrapped(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert len(line) <= width or line.startswith("flowkit ") or " " not in line
    if "flowkit" in text:
        assert any("flowkit train runs/points --set run.name=a/b --resume" in line for line in lines)


def test_a_terminal_gets_color_and_a_log_one_plain_line(monkeypatch, capsys):
    say("error", KEPT, 31)
    assert capsys.readouterr().err == f"error: {KEPT}\n"
    monkeypatch.setattr("shutil.get_terminal_size", lambda *fallback, **named: os.terminal_size((60, 20)))
    monkeypatch.setenv("TERM", "xterm")
    for no_color in (False, True):
        terminal = Terminal(width=60, height=20)
        monkeypatch.setattr(sys, "stderr", terminal)
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        say("error", KEPT, 31)
        assert ("\x1b[1;31merror\x1b[0m: runs" in terminal.raw) is not no_color
        assert ("\x1b" in terminal.raw) is not no_color
        assert terminal.screen[-2:] == ["flowkit train runs/points --set run.name=a/b --resume", "continues"]
