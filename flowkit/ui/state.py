"""The state of a run, collected from its events. The views only draw this."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from flowkit.events import Doing, Event, Finished, Logged, Notice, RunStarted, Sampled, Saved, Stepped, Validated
from flowkit.ui.sparkline import History


@dataclass
class RunState:
    """The latest event of each kind. `version` counts every change except steps, so that a view can cache its lines."""

    started: RunStarted | None = None
    step: int = 0
    logged: Logged | None = None
    validated: Validated | None = None
    best: tuple[int, float] | None = None  # step and validation loss
    sampled: Sampled | None = None
    saved: Saved | None = None
    finished: Finished | None = None
    doing: str = ""  # what keeps the next update waiting
    doing_since: float = 0.0
    losses: History = field(default_factory=History)
    validations: History = field(default_factory=History)
    version: int = 0
    began: float = field(default_factory=time.monotonic)
    logged_at: float = 0.0
    earlier_seconds: float = 0.0  # of the sessions before a resume

    def update(self, event: Event) -> None:
        match event:
            case Stepped():
                self.step = event.step
                return
            case RunStarted():
                if event.start_step:  # resumed
                    from flowkit.ui.past import recall

                    self.earlier_seconds = recall(event.run_dir, event.start_step, self.update)
                self.started, self.step, self.began = event, event.start_step, time.monotonic()
                self.best = event.best
            case Logged():
                self.logged, self.step, self.logged_at = event, event.step, time.monotonic()
                self.losses.add(event.step, event.loss)
            case Validated():
                self.validated = event
                self.best = (event.step, event.loss) if event.best else self.best
                self.validations.add(event.step, event.loss)
            case Sampled():
                self.sampled = event
            case Saved():
                self.saved = event
            case Doing():
                now = time.monotonic()
                if self.doing:
                    self.logged_at += now - self.doing_since  # the time left stands still meanwhile
                self.doing, self.doing_since = event.what, now
            case Finished():
                self.finished, self.step, self.doing = event, event.step, ""
            case Notice():
                pass
        self.version += 1

    @property
    def elapsed(self) -> float:
        """Seconds of this session."""
        return self.finished.seconds if self.finished else time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Counts down between log steps, except during `doing`; None before the first log step of this session."""
        if self.finished or not self.logged or math.isnan(self.logged.seconds_left):
            return None
        now = self.doing_since if self.doing else time.monotonic()
        return max(0.0, self.logged.seconds_left - (now - self.logged_at))
