"""The table of `flowkit runs`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowkit.runs import BROKEN, DONE, INTERRUPTED, RUNNING, RunSummary
from flowkit.runs.evaluations import FigureResult, Interval, best_of
from flowkit.ui.quantities import NOTHING, duration, value
from flowkit.ui.wording import plural

STYLES = {RUNNING: "bold cyan", INTERRUPTED: "yellow", DONE: "green", BROKEN: "bold red"}
ONE_LINE = 132  # terminal width from which everything about a run is on one line
NAME = 36  # cells that a run's name is not folded below
SHOWN = 2  # evaluation figures of each run


def show_runs(runs: Sequence[RunSummary], console: Console) -> None:
    """Print one row per run, then what is broken or damaged, and a line of counts."""
    wide = console.width >= ONE_LINE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    about = lambda run: f"{run.arch or NOTHING} on {run.data or NOTHING}"  # noqa: E731
    longest = max((len(run.name) if wide else max(len(run.name), len(about(run))) for run in runs), default=0)
    table.add_column("run", overflow="fold", min_width=min(longest, NAME))
    table.add_column("state", no_wrap=True)
    if wide:
        table.add_column("network", overflow="fold")
        table.add_column("data", overflow="fold")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("train\nloss", justify="right", no_wrap=True)
    table.add_column("best\nvalidation", justify="right", no_wrap=True)
    table.add_column("best figures", overflow="fold")
    for run in runs:
        name = Text(run.name, "bold")
        if not wide and (run.arch or run.data):
            name.append(f"\n{about(run)}", "not bold dim")
        apart = [Text(run.arch or NOTHING), Text(run.data or NOTHING)] if wide else []
        best = (run.best_validation or {}).get("val_loss")
        table.add_row(
            name,
            _state(run),
            *apart,
            _step(run),
            value(run.loss),
            Text(value(best), "magenta"),
            _figures(run, SHOWN if console.width >= 100 else 1),
        )
    console.print(table)
    for run in runs:
        for style, text in [*([("bold red", run.reason)] if run.state == BROKEN else []),
                            *(("yellow", remark) for remark in run.remarks)]:  # fmt: skip
            console.print(Text.assemble((f"{run.name}  ", style), text), soft_wrap=True)
    counts = [(state, sum(run.state == state for run in runs)) for state in STYLES]
    console.print(Text(f"{plural(len(runs), 'run')}: " + ", ".join(f"{n} {state}" for state, n in counts if n), "dim"))


def _state(run: RunSummary) -> Text:
    text = Text(run.state, STYLES[run.state])
    if run.state == INTERRUPTED and run.reason not in ("", INTERRUPTED):
        text.append(f"\n{run.reason}", "not bold dim")
    return text


def _step(run: RunSummary) -> Text:
    if run.step is None:
        return Text(NOTHING, "dim")
    total = "" if run.total_steps is None else f"/{run.total_steps:,}"
    text = Text.assemble(f"{run.step:,}", (total, "dim"))
    if run.seconds is not None:
        text.append(f"\n{duration(run.seconds)}", "dim")
    return text


def _figures(run: RunSummary, count: int) -> Text:
    found = list(best_of(run.evaluations).values())[:count]
    if not found:
        return Text(NOTHING, "dim")
    lines = [Text.assemble((f"{one.figure.name} ", "dim"), number(one.figure, one.figure.samples)) for one in found]
    return Text("\n").join(lines)


def number(figure: FigureResult, one: Interval | None, *, interval: bool = False, signed: bool = False) -> str:
    """`61.5%`, or `61.5% [58.2, 64.9]`: a figure in its unit."""
    if one is None:
        return NOTHING
    shown = [end * figure.scale for end in (one.value, one.low, one.high)]
    largest = max(map(abs, shown))
    decimals = 1 if figure.unit == "%" else 3 if largest < 1 else 2 if largest < 10 else 1 if largest < 100 else 0
    unit = (
        f" ×{figure.unit}" if figure.unit.startswith("10") else f" {figure.unit}".removesuffix(" ").replace(" %", "%")
    )
    sign = "+" if signed else ""
    ends = f" [{shown[1]:{sign}.{decimals}f}, {shown[2]:{sign}.{decimals}f}]" if interval else ""
    return f"{shown[0]:{sign}.{decimals}f}{unit}{ends}"
