"""What is known of a run so far, gathered from its events; the views draw this and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from flowkit.events import Event, Finished, Logged, Notice, RunStarted, Sampled, Saved, Stepped, Validated
from flowkit.ui.sparkline import History


@dataclass
class RunState:
    """The latest event of every kind. `version` counts every change but the steps: a view can keep its lines."""

    started: RunStarted | None = None
    step: int = 0
    logged: Logged | None = None
    validated: Validated | None = None
    best: tuple[int, float] | None = None  # step and validation loss
    sampled: Sampled | None = None
    saved: Saved | None = None
    finished: Finished | None = None
    losses: History = field(default_factory=History)
    validations: History = field(default_factory=History)
    version: int = 0
    began: float = field(default_factory=time.monotonic)
    logged_at: float = 0.0

    def update(self, event: Event) -> None:
        match event:
            case Stepped():
                self.step = event.step
                return
            case RunStarted():
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
            case Finished():
                self.finished, self.step = event, event.step
            case Notice():
                pass
        self.version += 1

    @property
    def elapsed(self) -> float:
        return self.finished.seconds if self.finished else time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Counts down between log steps; None before the first."""
        if self.finished or not self.logged:
            return None
        return max(0.0, self.logged.seconds_left - (time.monotonic() - self.logged_at))
