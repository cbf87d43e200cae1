"""The live view of a run: collects its events, and a thread repaints the frame a few times a second."""

from __future__ import annotations

import io
import threading
import time
from types import TracebackType
from typing import Literal, Self, cast

from rich.console import Console
from rich.text import Text

from flowkit.events import Event, Notice, Stepped
from flowkit.ui import view
from flowkit.ui.frame import Frame
from flowkit.ui.state import RunState
from flowkit.ui.wording import next_commands, summary

TICK = 0.125  # seconds between repaints of the progress line
BODY = 0.5  # minimum seconds between redraws of the rest: drawing takes milliseconds, which the loop would miss
WHOLE = 1.0  # seconds between full repaints, which repair what other programs wrote over the view
LATEST = 3  # rows at the bottom for what was printed last


class LiveListener:
    """A context manager. Events may come from any thread. Other code's prints are shown below the view.

    A step costs the run one attribute. All drawing happens in the thread.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = RunState()
        self._frame = Frame(console.file, lambda: (console.width, console.height))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowkit-live", daemon=True)
        self._body: list[str] = []
        self._body_of = (-1, 0, 0)  # version, width, height
        self._body_at = 0.0
        self._whole_at = 0.0

    def __enter__(self) -> Self:
        self._frame.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)  # a terminal stopped with Ctrl-S must not hold the run
        if self._state.started:
            self._paint(whole=True)
        self._frame.close()
        if self._state.finished:
            self._say_what_next()

    def __call__(self, event: Event) -> None:
        if type(event) is Stepped:
            self._state.step = event.step
            return
        self._state.update(event)
        if isinstance(event, Notice):
            self._frame.keep("\n".join(self._ansi([Text.assemble(("notice ", "yellow"), event.text)], fit=False)))

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            self._paint(whole=time.monotonic() - self._whole_at >= WHOLE)

    def _paint(self, *, whole: bool) -> None:
        """Draw the view, and below it what was printed last. The last frame leaves room for what follows it."""
        ended = self._stop.is_set()
        latest = [] if ended else [Text.from_ansi(line) for line in list(self._frame.printed)[-LATEST:]]
        if whole:
            self._whole_at = time.monotonic()
        # The last column and row stay free for the cursor.
        width, height = self._console.width - 1, self._console.height - (view.AFTERWORD if ended else 1) - len(latest)
        key = (self._state.version, width, height)
        recent = not ended and time.monotonic() - self._body_at < BODY
        if key != self._body_of and not (recent and key[1:] == self._body_of[1:]):
            self._body = self._ansi(view.lines(self._state, width, height))
            self._body_of, self._body_at = key, time.monotonic()
        lines = list(self._body)
        if len(lines) > view.PROGRESS_LINE:
            lines[view.PROGRESS_LINE : view.PROGRESS_LINE + 1] = self._ansi([view.progress(self._state, width)])
        self._frame.paint(lines + self._ansi(latest), whole=whole)

    def _ansi(self, lines: list[Text], *, fit: bool = True) -> list[str]:
        """Style lines as far as the terminal can show it. The console knows about NO_COLOR and the like."""
        console = self._console
        drawing = Console(
            file=io.StringIO(), force_terminal=True, width=console.width, highlight=False, legacy_windows=False,
            no_color=console.no_color, color_system=cast(Literal["standard", "256", "truecolor"] | None, console.color_system),
        )  # fmt: skip
        with drawing.capture() as capture:
            for line in lines:
                drawing.print(line, overflow="crop" if fit else "fold", no_wrap=fit, crop=fit, soft_wrap=False)
        return capture.get().splitlines()

    def _say_what_next(self) -> None:
        finished = self._state.finished
        assert finished
        good = "green" if finished.reason == "done" else "yellow"
        self._console.print(Text(summary(self._state, finished), good), highlight=False)
        for label, command in zip(("next  ", "or    "), next_commands(finished), strict=True):
            # A long command is left to the terminal to wrap, so that it can be copied whole.
            self._console.print(Text.assemble((label, "dim"), (command, "cyan")), soft_wrap=True, highlight=False)
