"""A run as plain lines, for logs and pipes: one line per event, `<date> <time> <kind> key=value ...`, no escape codes."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import IO, Self

from flowkit.events import Event, Finished, Logged, Notice, RunStarted, Sampled, Saved, Stepped, Validated
from flowkit.ui.quantities import duration, size, value
from flowkit.ui.state import RunState
from flowkit.ui.wording import next_commands, summary


class PlainListener:
    """Writes to `stream` (stderr if None) and flushes every line. The keys of a line are always in the same order."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._state = RunState()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, event: Event) -> None:
        if type(event) is Stepped:
            return
        self._state.update(event)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ")
        for line in lines(event, self._state):
            print(stamp + " ".join(line.splitlines()), file=self._stream or sys.stderr, flush=True)


class QuietListener(PlainListener):
    """Prints urgent notices only."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice) and event.urgent:
            super().__call__(event)


def lines(event: Event, state: RunState) -> list[str]:
    """Return the lines for `event`."""
    match event:
        case RunStarted():
            return [_run(event)]
        case Logged():
            return [_step(event, state)]
        case Validated():
            return [_validation(event)]
        case Sampled():
            figures = "".join(f" {name}={value(number)}" for name, number in event.figures.items())
            return [f"samples step={event.step} count={event.count} nfe={event.nfe} "
                    f"seconds={event.seconds:.2f}{figures} path={event.path}", *_sentences(event)]  # fmt: skip
        case Saved():
            best = " best" if event.best else ""
            return [f"saved step={event.step} seconds={event.seconds:.2f} path={event.path}{best}"]
        case Notice():
            return [f"notice {event.text}"]
        case Finished():
            return [summary(state, event), *(f"next: {command}" for command in next_commands(event))]
    return []


def _sentences(event: Sampled, most: int = 3) -> list[str]:
    """Return the first few samples, if each is a single line."""
    if any(len(preview.lines) != 1 for preview in event.previews):
        return []
    return [
        f"sample step={event.step} title={preview.title!r} remark={preview.note!r} text={preview.lines[0]!r}"
        for preview in event.previews[:most]
    ]


def _run(event: RunStarted) -> str:
    return (
        f"run name={event.name} arch={event.arch} parameters={event.num_parameters} data={event.data!r} "
        f"{event.noun}={event.train_rows} validation={event.val_rows} shape={'x'.join(map(str, event.x_shape))} "
        f"device={event.device!r} processes={event.num_processes} precision={event.precision} "
        f"batch={event.batch_size} micro_batch={event.micro_batch_size} accumulation={event.accumulation} "
        f"steps={event.start_step}..{event.total_steps} ema={event.ema_decay:g} path={event.run_dir}"
    )


def _step(event: Logged, state: RunState) -> str:
    total = f"/{state.started.total_steps}" if state.started else ""
    noun = state.started.noun if state.started else "rows"
    parts = [
        f"step {event.step}{total} epoch={event.epoch:.2f} loss={value(event.loss)}",
        *(f"{name}={value(term)}" for name, term in event.terms.items()),
        f"grad_norm={value(event.grad_norm)} lr={event.lr:.3e} ema={event.ema_decay:.6g}",
        f"{noun}/s={event.rows_per_second:.1f} memory={size(event.memory_bytes).replace(' ', '')}",
        f"left={duration(event.seconds_left).replace(' ', '') if math.isfinite(event.seconds_left) else '?'}",
    ]
    return " ".join([*parts, f"skipped={event.skipped}"] if event.skipped else parts)


def _validation(event: Validated) -> str:
    bins = ",".join(value(loss) for _, _, loss in event.bins)
    gaussians = "".join(f" {kind}={value(loss)}" for kind, loss in event.gaussian_losses.items())
    one_step = "" if event.one_step_error is None else f" one_step_error={value(event.one_step_error)}"
    return (
        f"validation step={event.step} loss={value(event.loss)} raw={value(event.raw_loss)} "
        f"zero={value(event.zero_loss)}{gaussians} bins={bins}{one_step}{' best' if event.best else ''}"
    )
