"""The lines of the live view: a pure function of the run's state and the terminal's size.

Two layouts: roomy (numbers beside a chart of the losses) and compact (fits 80 x 24 with a row of pictures). Every value
has its place from the start, so that nothing moves when values arrive. What does not fit is dropped whole, never cut.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from flowkit.events import RunStarted
from flowkit.ui.heading import heading
from flowkit.ui.previews import preview_grid
from flowkit.ui.quantities import NOTHING, duration, rate, shape, short_count, size, value
from flowkit.ui.sparkline import Scale, bars, chart, sparkline
from flowkit.ui.state import RunState
from flowkit.ui.wording import averaged, batch, plural

LOSS, VALIDATION, GOOD, BAD, QUIET = "cyan", "magenta", "green", "yellow", "dim"
ROOMY_WIDTH, ROOMY_HEIGHT = 104, 30
FIGURES = 58  # width of the left column of the roomy layout
PROGRESS_LINE = 3  # index in `lines` of what changes with every step
SHORTEST_BAR = 4
AFTERWORD = 5  # rows below the last frame: the summary, what to type next, and the shell's prompt


def progress(state: RunState, width: int) -> Text:
    """Return the bar, and what is done and left, in one line."""
    started = state.started
    if started is None:
        return Text("starting ...", QUIET)
    total = max(1, started.total_steps)
    done = min(1.0, state.step / total)
    epoch = state.step / started.steps_per_epoch if started.steps_per_epoch else 0.0
    left = state.seconds_left
    digits = len(f"{total:,}")
    epoch_digits = len(f"{total / (started.steps_per_epoch or 1):.1f}")
    parts = [f"{int(100 * done):3d}%", f"{state.step:>{digits},} / {total:,}"]
    whole = duration(state.earlier_seconds + state.elapsed)
    if state.finished:
        parts += [f"epoch {epoch:.1f}", f"{state.finished.reason} in {whole}"]
    else:
        parts += [
            state.doing or f"epoch {epoch:>{epoch_digits}.1f}",
            f"{duration(left) if left is not None else NOTHING:>5} left",
        ]
        if width >= ROOMY_WIDTH:
            session = f"{duration(state.elapsed)} since the resume, " if state.earlier_seconds else ""
            parts.append(f"{session}{whole:>5} {'in all' if session else 'so far'}")
    while len(parts) > 1 and len("  ".join(parts)) + 2 + SHORTEST_BAR > width:
        parts.pop()
    text = "  ".join(parts)
    room = max(SHORTEST_BAR, width - len(text) - 2)
    half_cells = int(2 * room * done)
    color = GOOD if state.finished and state.finished.reason == "done" else LOSS
    bar = Text.assemble(("━" * (half_cells // 2) + "╸" * (half_cells % 2), color))
    bar.append("─" * (room - len(bar)), "bright_black")  # lighter, so that it can be told apart without colors
    return bar.append("  " + text)


def lines(state: RunState, width: int, height: int) -> list[Text]:
    """Return at most `height` lines of at most `width` cells. Before the start event, a single line that says so."""
    if state.started is None:
        return [progress(state, width)]
    body = _roomy if width >= ROOMY_WIDTH and height >= ROOMY_HEIGHT else _compact
    drawn = [*_head(state.started, width), progress(state, width), *body(state, width)]
    drawn += _samples(state, width, height - len(drawn))
    for line in drawn:
        line.truncate(width, overflow="ellipsis")
    return drawn[:height]


def _head(started: RunStarted, width: int) -> list[Text]:
    what = [
        Text(started.arch, "bold"), Text(f"{short_count(started.num_parameters)} parameters"), Text(started.data),
        Text(f"{started.train_rows:,} + {started.val_rows:,} {started.noun} of {shape(started.x_shape)}", QUIET),
    ]  # fmt: skip
    ema = "no EMA"
    if started.ema_decay:
        ema = f"EMA of the {averaged(started.ema_decay)}" if width >= ROOMY_WIDTH else f"EMA {started.ema_decay:.5g}"
    where = [started.device, started.precision, f"batch {batch(started)}", ema]
    if started.num_processes > 1:
        where.insert(1, f"{started.num_processes} processes")
    name = started.name + (f" · resumed at step {started.start_step:,}" if started.start_step else "")
    return [
        heading(name, _path(started.run_dir), width),
        _flow(what, width, " · ")[0],
        _flow([Text(part, QUIET) for part in where], width, " · ")[0],
    ]


def _flow(parts: Sequence[Text], width: int, gap: str = "   ") -> list[Text]:
    """Return the parts in as many lines as they take, broken between parts only."""
    drawn: list[Text] = []
    for part in parts:
        if drawn and drawn[-1].cell_len + len(gap) + part.cell_len <= width:
            drawn[-1].append(gap, QUIET).append_text(part)
        else:
            drawn.append(Text.assemble(part))  # not a copy: its style would be that of the whole line
    return drawn or [Text()]


def _compact(state: RunState, width: int) -> list[Text]:
    logged, noun = state.logged, state.started.noun if state.started else "rows"
    loss = Text.assemble(("loss        ", QUIET), (f"{value(logged.loss if logged else None):<10}", "bold"))
    loss.append(sparkline([value for _, value in list(state.losses.points)], width - loss.cell_len), LOSS)
    validation = Text.assemble(("validation  ", QUIET), *_validation(state))
    more = [validation, _baselines(state, short=True), _bins(state, width)]
    # Fixed widths, so that the lines stay where they are when values come in.
    figures = [
        _fixed("learning rate", f"{logged.lr:.2e}" if logged else NOTHING, 8),
        _fixed("gradient", value(logged.grad_norm if logged else None), 8),
        _fixed("EMA decay", f"{logged.ema_decay:.5f}" if logged else NOTHING, 7),
        _fixed("", f"{rate(logged.rows_per_second) if logged else NOTHING} {noun}/s", 8 + len(noun)),
        _fixed("memory", size(logged.memory_bytes) if logged else NOTHING, 7),
        _saved(state),
        _best(state),
    ]
    if logged and logged.skipped:
        figures.append(Text(f"{plural(logged.skipped, 'update')} skipped", BAD))
    return [loss, _flow([part for part in more if part], width)[0], *_flow([*figures, *_terms(state)], width)]


def _fixed(name: str, shown: str, width: int) -> Text:
    return Text.assemble((f"{name} " if name else "", QUIET), f"{shown:<{width}}")


def _roomy(state: RunState, width: int) -> list[Text]:
    logged = state.logged
    rows = [
        _figure("loss", (value(logged.loss if logged else None), "bold")),
        _figure("validation", *_validation(state)),
        _figure("  baselines", _baselines(state)),
        _figure("  by time", _bins(state, FIGURES - 16)),
        _figure("  raw weights", value(state.validated.raw_loss if state.validated else None)),
        _figure("gradient norm", value(logged.grad_norm if logged else None)),
        _figure("learning rate", f"{logged.lr:.2e}" if logged else NOTHING),
        _figure("EMA decay", f"{logged.ema_decay:.5f}, {averaged(logged.ema_decay)}" if logged else NOTHING),
        _figure("speed", *_speed(state)),
        _figure("memory", size(logged.memory_bytes) if logged else NOTHING),
    ]
    if logged and logged.skipped:
        rows[-1].append(f"   {plural(logged.skipped, 'update')} skipped", BAD)
    drawn = []
    for row, graph in zip(rows, _chart(state, width - FIGURES, len(rows)), strict=True):
        row.truncate(FIGURES - 2, overflow="ellipsis", pad=True)
        drawn.append(row.append("  ").append_text(graph))
    return [Text(), *drawn, _flow(_terms(state), width)[0], _flow([_saved(state), _best(state)], width)[0]]


def _figure(name: str, *shown: str | Text | tuple[str, str]) -> Text:
    return Text.assemble((f"{name:<15} ", QUIET), *shown)


def _validation(state: RunState) -> list[str | tuple[str, str]]:
    found = state.validated
    if not found:
        return [NOTHING]
    return [(value(found.loss), f"bold {VALIDATION}")]


def _baselines(state: RunState, short: bool = False) -> Text:
    """Return the losses of predicting zero and of the best Gaussians, on the same rows, noises and times."""
    found = state.validated
    if not found:
        return Text()
    shown = {"zero": found.zero_loss, **found.gaussian_losses}
    if short:
        shown.pop("diagonal", None)
    return Text("  ".join(f"{name} {value(loss)}" for name, loss in shown.items()), QUIET)


def _bins(state: RunState, width: int) -> Text:
    """Return the loss by time, one block per bin, from noise to data."""
    bins = state.validated.bins if state.validated else ()
    if not bins or width < len(bins) + 13:
        return Text()
    graph = bars([loss for _, _, loss in bins])
    return Text.assemble(("noise ", QUIET), (graph, VALIDATION), (" data", QUIET))


def _speed(state: RunState) -> list[str | tuple[str, str]]:
    assert state.started
    per_second = rate(state.logged.rows_per_second) if state.logged else NOTHING
    return [per_second, (f" {state.started.noun}/s", QUIET)]


def _terms(state: RunState) -> list[Text]:
    """Return the auxiliary losses, and MeanFlow's one-step error."""
    terms = dict(state.logged.terms) if state.logged else {}
    if state.validated and state.validated.one_step_error is not None:
        terms["one-step error"] = state.validated.one_step_error
    return _named(terms)


def _named(numbers: dict[str, float]) -> list[Text]:
    return [Text.assemble((f"{name.replace('_', ' ')} ", QUIET), value(number)) for name, number in numbers.items()]


def _saved(state: RunState) -> Text:
    return _fixed("checkpoint", f"step {state.saved.step:,}" if state.saved else NOTHING, 12)


def _best(state: RunState) -> Text:
    best = f"{value(state.best[1])} at step {state.best[0]:,}" if state.best else NOTHING
    return Text.assemble(("best ", QUIET), (f"{best:<20}", GOOD if state.best else ""))


def _chart(state: RunState, width: int, rows: int) -> list[Text]:
    """Return the losses over the whole run, with the ends of the scale at the left and the steps below."""
    assert state.started
    label = 9
    losses, validations = list(state.losses.points), list(state.validations.points)
    last = max([1.0, *(step for step, _ in (*losses[-1:], *validations[-1:]))])
    scale = Scale.of([*losses, *validations])
    drawn = []
    # The loss comes last: where the two meet, validation must not paint over it.
    for i, line in enumerate(chart([(validations, VALIDATION), (losses, LOSS)], last, width - label, rows - 1)):
        edge = {0: value(scale.high), rows - 2: value(scale.low)}.get(i, "") if scale else ""
        axis = "↑" if i == 0 and scale and scale.cut else "│"
        drawn.append(Text.assemble((f"{edge:>{label - 2}} ", QUIET), (axis, "bright_black"), line))
    end = f"step {last:,.0f}" if scale else ""
    legend = Text.assemble(" " * (label - 1), "  ", ("━ loss", LOSS), "  ", ("━ validation", VALIDATION))
    legend.append(f"{end:>{max(1, width - legend.cell_len)}}", QUIET)
    return [*drawn, legend]


def _samples(state: RunState, width: int, height: int) -> list[Text]:
    sampled = state.sampled
    if sampled is None or height < 3:
        return []
    spread = [Text()] if height > 20 else []
    figures = _flow(_named(sampled.figures), width)[: height // 4 if sampled.figures else 0]
    grid = preview_grid(sampled.previews, width, height - 1 - len(spread) - len(figures), sampled.caption)
    if not grid:
        return []
    took = "" if math.isnan(sampled.seconds) else f", {sampled.seconds:.1f} s"  # not known after a resume
    facts = f"{sampled.nfe} NFE{took}"
    if width >= ROOMY_WIDTH:
        facts += f" · {_path(sampled.path)}"
    return [*spread, heading(f"samples at step {sampled.step:,}", facts, width), *figures, *grid]


def _path(path: Path) -> str:
    """Return a path relative to the current folder, if that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except (OSError, ValueError):
        return str(path)
