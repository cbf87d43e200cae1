"""Wording shared by several views: what is trained, and what to do when a run has ended."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from flowkit.ui.quantities import duration, value

if TYPE_CHECKING:
    from flowkit.events import Finished, RunStarted
    from flowkit.ui.state import RunState


def batch(started: RunStarted) -> str:
    """Describe the batch size: `256`, or `256 = 2 × 4 × 32`: processes × accumulation steps × micro-batch."""
    parts = [started.num_processes, started.accumulation]
    factors = [str(part) for part in (*parts, started.micro_batch_size) if part > 1]
    return f"{started.batch_size}" + (f" = {' × '.join(factors)}" if any(part > 1 for part in parts) else "")


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("ss") else "s")


def averaged(decay: float) -> str:
    """Describe an average: `last 116 updates`, those with most of the weight in an average with that decay."""
    return f"last {plural(round(1 / (1 - decay)), 'update')}"


def summary(state: RunState, finished: Finished) -> str:
    """Summarize a run: `done at step 5,000 after 12:04, validation loss 0.4120, best 0.4102 at step 4,800`."""
    took = duration(finished.seconds)
    if state.earlier_seconds:
        took += f" ({duration(state.earlier_seconds + finished.seconds)} in all sessions)"
    parts = [f"{finished.reason} at step {finished.step:,} after {took}"]
    if state.validated:
        parts.append(f"validation loss {value(state.validated.loss)}")
    if state.best:
        parts.append(f"best {value(state.best[1])} at step {state.best[0]:,}")
    return ", ".join(parts)


def next_commands(finished: Finished) -> list[str]:
    """Return two commands to type next."""
    run = shlex.quote(str(finished.run_dir))
    if finished.reason != "done":
        return [
            f"flowkit train {run} --resume",
            f"flowkit inspect {run}",
        ]
    return [f"flowkit sample {run}", f"flowkit inspect {run}"]
