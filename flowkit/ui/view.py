"""How a run looks in a terminal: a pure function of its state and of the window's size, in Rich's texts.

Two layouts: roomy (figures beside a chart of the losses) and compact (80 x 24 holds it with a row of pictures).
Everything has its place from the first moment on, so that nothing moves when values come in.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.text import Text

from flowkit.events import RunStarted
from flowkit.ui.heading import heading
from flowkit.ui.previews import preview_grid
from flowkit.ui.quantities import NOTHING, duration, rate, shape, short_count, size, value
from flowkit.ui.sparkline import bars, chart, sparkline
from flowkit.ui.state import RunState
from flowkit.ui.wording import averaged, batch, plural

LOSS, VALIDATION, GOOD, BAD, QUIET = "cyan", "magenta", "green", "yellow", "dim"
ROOMY_WIDTH, ROOMY_HEIGHT = 104, 30
FIGURES = 58  # width of the roomy layout's left column
PROGRESS_LINE = 3  # where `lines` puts what changes with every step


def progress(state: RunState, width: int) -> Text:
    """The bar and what is left, in one line."""
    started = state.started
    if started is None:
        return Text("starting ...", QUIET)
    total = max(1, started.total_steps)
    done = min(1.0, state.step / total)
    epoch = state.step / started.steps_per_epoch if started.steps_per_epoch else 0.0
    left = state.seconds_left
    digits = len(f"{total:,}")
    epoch_digits = len(f"{total / (started.steps_per_epoch or 1):.1f}")
    parts = [f"{int(100 * done):3d}%", f"{state.step:>{digits},} / {total:,}", f"epoch {epoch:>{epoch_digits}.1f}"]
    if state.finished:
        parts.append(f"{state.finished.reason} in {duration(state.finished.seconds)}")
    else:
        parts.append(f"{duration(left) if left is not None else NOTHING:>5} left")
        if width >= ROOMY_WIDTH:
            parts.append(f"{duration(state.elapsed):>5} so far")
    text = "  ".join(parts)
    room = max(4, width - len(text) - 2)
    half_cells = int(2 * room * done)
    colour = GOOD if state.finished and state.finished.reason == "done" else LOSS
    bar = Text.assemble(("━" * (half_cells // 2) + "╸" * (half_cells % 2), colour))
    bar.append("─" * (room - len(bar)), "bright_black")  # lighter, so that it shows without colours
    return bar.append("  " + text)


def lines(state: RunState, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells. Without a start event there is only a line that says so."""
    if state.started is None:
        return [progress(state, width)]
    body = _roomy if width >= ROOMY_WIDTH and height >= ROOMY_HEIGHT else _compact
    drawn = [*_head(state.started, width), progress(state, width), *body(state, width)]
    drawn += _samples(state, width, height - len(drawn))
    for line in drawn:
        line.truncate(width, overflow="ellipsis")
    return drawn[:height]


def _head(started: RunStarted, width: int) -> list[Text]:
    what = Text.assemble(
        (started.arch, "bold"),
        f" · {short_count(started.num_parameters)} parameters · {started.data}",
        (f" · {started.train_rows:,} + {started.val_rows:,} {started.noun} of {shape(started.x_shape)}", QUIET),
    )
    processes = f"{started.num_processes} process{'es' if started.num_processes != 1 else ''}"
    ema = "no EMA"
    if started.ema_decay:
        ema = f"EMA of the {averaged(started.ema_decay)}" if width >= ROOMY_WIDTH else f"EMA {started.ema_decay:.5g}"
    where = f"{processes} · {started.precision} · batch {batch(started)} · {ema} · {started.device}"
    return [heading(started.name, _path(started.run_dir), width), what, Text(where, QUIET)]


def _compact(state: RunState, width: int) -> list[Text]:
    logged = state.logged
    left = 46
    graph = max(0, width - left - 1)
    loss = Text.assemble(("loss        ", QUIET), (f"{value(logged.loss if logged else None):<8}", "bold"))
    loss.truncate(left, overflow="ellipsis", pad=True)
    loss.append(" ").append(sparkline([value for _, value in list(state.losses.points)], graph), LOSS)
    validation = Text.assemble(("validation  ", QUIET), *_validation(state), "  ", *_yardsticks(state, short=True))
    validation.truncate(left, overflow="ellipsis", pad=True)
    validation.append(" ").append_text(_bins(state, graph))
    figures = [
        ("learning rate", f"{logged.lr:.2e}" if logged else NOTHING),
        ("gradient", value(logged.grad_norm if logged else None)),
        ("EMA decay", f"{logged.ema_decay:.5f}" if logged else NOTHING),
    ]
    speed = Text.assemble(*_speed(state), ("   memory ", QUIET), size(logged.memory_bytes) if logged else NOTHING)
    if logged and logged.skipped:
        speed.append(f"   {plural(logged.skipped, 'update')} skipped", BAD)
    speed.append("   ").append_text(_terms(state))
    row = Text()
    for name, shown in figures:
        row.append(f"{name} ", QUIET).append(f"{shown:<11}")
    return [loss, validation, row, speed, _checkpoints(state)]


def _roomy(state: RunState, width: int) -> list[Text]:
    logged = state.logged
    rows = [
        _figure("loss", (value(logged.loss if logged else None), "bold")),
        _figure("validation", *_validation(state)),
        _figure("  yard-sticks", *_yardsticks(state)),
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
    return [Text(), *drawn, _terms(state), _checkpoints(state)]


def _figure(name: str, *shown: str | Text | tuple[str, str]) -> Text:
    return Text.assemble((f"{name:<15} ", QUIET), *shown)


def _validation(state: RunState) -> list[str | tuple[str, str]]:
    found = state.validated
    if not found:
        return [NOTHING]
    return [(value(found.loss), f"bold {VALIDATION}")]


def _yardsticks(state: RunState, short: bool = False) -> list[tuple[str, str]]:
    """The losses, on the same rows, noises and times, of predicting zero and of the best Gaussians."""
    found = state.validated
    if not found:
        return []
    shown = {"zero": found.zero_loss, **found.gaussian_losses}
    if short:
        shown.pop("diagonal", None)
    return [("  ".join(f"{name} {value(loss)}" for name, loss in shown.items()), QUIET)]


def _bins(state: RunState, width: int) -> Text:
    """The loss by time, a block a bin, from noise to data."""
    bins = state.validated.bins if state.validated else ()
    if not bins or width < len(bins) + 13:
        return Text()
    graph = bars([loss for _, _, loss in bins])
    return Text.assemble(("noise ", QUIET), (graph, VALIDATION), (" data", QUIET))


def _speed(state: RunState) -> list[str | tuple[str, str]]:
    assert state.started
    per_second = rate(state.logged.rows_per_second) if state.logged else NOTHING
    return [per_second, (f" {state.started.noun}/s", QUIET)]


def _terms(state: RunState) -> Text:
    """The auxiliary losses and MeanFlow's one-step error; an empty line where there are none."""
    terms = dict(state.logged.terms) if state.logged else {}
    if state.validated and state.validated.one_step_error is not None:
        terms["one-step error"] = state.validated.one_step_error
    return Text("   ").join(Text.assemble((f"{name} ", QUIET), value(term)) for name, term in terms.items())


def _checkpoints(state: RunState) -> Text:
    saved = f"step {state.saved.step:,}" if state.saved else NOTHING
    best = f"{value(state.best[1])} at step {state.best[0]:,}" if state.best else NOTHING
    return Text.assemble(("checkpoint  ", QUIET), saved, ("   best  ", QUIET), (best, GOOD if state.best else ""))


def _chart(state: RunState, width: int, rows: int) -> list[Text]:
    """The losses over the whole run, with the scale's ends at the left and the steps below."""
    assert state.started
    label = 9
    losses, validations = list(state.losses.points), list(state.validations.points)
    everything = [value for _, value in (*losses, *validations)]
    last = max([1.0, *(step for step, _ in (*losses[-1:], *validations[-1:]))])
    series = [(losses, LOSS), (validations, VALIDATION)]
    drawn = []
    for i, line in enumerate(chart(series, last, width - label, rows - 1)):
        edge = value(max(everything)) if everything and i == 0 else ""
        edge = value(min(everything)) if everything and i == rows - 2 else edge
        drawn.append(Text.assemble((f"{edge:>{label - 2}} ", QUIET), ("│", "bright_black"), line))
    end = f"step {last:,.0f}" if everything else ""
    legend = Text.assemble(" " * (label - 1), "  ", ("━ loss", LOSS), "  ", ("━ validation", VALIDATION))
    legend.append(f"{end:>{max(1, width - legend.cell_len)}}", QUIET)
    return [*drawn, legend]


def _samples(state: RunState, width: int, height: int) -> list[Text]:
    sampled = state.sampled
    if sampled is None or height < 3:
        return []
    spread = [Text()] if height > 20 else []
    figures = _figures(sampled.figures, width)[: height // 4]
    grid = preview_grid(sampled.previews, width, height - 1 - len(spread) - len(figures), sampled.caption)
    if not grid:
        return []
    facts = f"{sampled.nfe} NFE, {sampled.seconds:.1f} s"
    if width >= ROOMY_WIDTH:
        facts += f" · {_path(sampled.path)}"
    return [*spread, heading(f"samples at step {sampled.step:,}", facts, width), *figures, *grid]


def _figures(figures: dict[str, float], width: int) -> list[Text]:
    """What was measured on the samples, in as many lines as it takes."""
    lines: list[Text] = []
    for name, number in figures.items():
        part = Text.assemble((f"{name.replace('_', ' ')} ", QUIET), value(number))
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1].append("   ").append_text(part)
        else:
            lines.append(part)
    return lines


def _path(path: Path) -> str:
    """Relative to where one stands, if that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except (OSError, ValueError):
        return str(path)
