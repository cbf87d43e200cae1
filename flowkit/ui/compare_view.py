"""The comparison of `flowkit compare`: what differs between runs, and whether it is beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowkit.runs import BROKEN
from flowkit.runs.comparison import BETTER, CHANCE, DIFFERENT, WORSE, Comparison, Difference, FigureRow, Row
from flowkit.ui.facts import plain
from flowkit.ui.heading import heading
from flowkit.ui.quantities import NOTHING, duration, value
from flowkit.ui.runs_view import STYLES, number

VERDICTS = {BETTER: ("better", "green"), WORSE: ("worse", "red"), DIFFERENT: ("differs", "yellow"),
            CHANCE: ("within chance", "dim")}  # fmt: skip
LEGEND = (
    "In brackets: 90% intervals. Differences are to the first run. They are beyond chance if their interval excludes 0; "
    "of ten figures that do not differ, one does so on average. The intervals cover the choice of samples and rows, not "
    "the training seed."
)


def show_comparison(found: Comparison, console: Console) -> None:
    """Print what differs: recipes, versions, losses, figures."""
    names = [run.name for run in found.runs]
    console.print(heading("runs", "", console.width))
    table = _table(names)
    table.add_row("state", *(Text(run.state, STYLES[run.state]) for run in found.runs))
    table.add_row("network", *(run.arch or NOTHING for run in found.runs))
    table.add_row("data", *(Text(run.data or NOTHING) for run in found.runs))
    console.print(table)
    for run in found.runs:
        for style, text in [*([("bold red", run.reason)] if run.state == BROKEN else []),
                            *(("yellow", remark) for remark in run.remarks)]:  # fmt: skip
            console.print(Text.assemble((f"{run.name}  ", style), text), soft_wrap=True)
    console.print(heading("recipe: what differs", "", console.width))
    if found.recipe:
        _rows(found.recipe, names, console, lambda name, shown: NOTHING if shown is None else plain(shown))
    else:
        console.print(Text("nothing", "dim"))
    if found.setup:
        console.print(heading("versions and machine: what differs", "", console.width))
        _rows(found.setup, names, console, lambda name, shown: _short(name, shown))
    console.print(heading("losses", "", console.width))
    _rows(found.losses, names, console, loss_cell)
    if found.figures:
        console.print(heading("evaluation", "", console.width))
        _figures(found, console)
        console.print(Text(LEGEND, "dim"))
    for note in found.notes:
        console.print(Text(f"note: {note}", "yellow"))


def loss_cell(name: str, shown: Any) -> str:
    """Format a value of a row of losses: a count, a time, a fraction or a loss."""
    if shown is None:
        return NOTHING
    if name.endswith("step"):
        return f"{shown:,}"
    if name == "training time":
        return duration(shown)
    if name == "of predicting zero":
        return f"{100 * shown:.1f}%"
    return value(shown)


def short_commit(commit: str) -> str:
    """Return the first digits of a commit, with its `-dirty`."""
    digits, dash, dirty = commit.partition("-")
    return f"{digits[:12]}{dash}{dirty}"


def _short(name: str, shown: Any) -> str:
    return NOTHING if shown is None else short_commit(shown) if name == "commit" else str(shown)


def _rows(rows: Sequence[Row], names: list[str], console: Console, cell: Any) -> None:
    table = _table(names)
    for row in rows:
        table.add_row(row.name, *(Text(cell(row.name, one)) for one in row.values))
    console.print(table)


def _figures(found: Comparison, console: Console) -> None:
    table = _table([run.name for run in found.runs], real=True)
    for group, rows in groupby(found.figures, key=lambda row: row.figure.group):
        if group:
            table.add_row(Text(group, "cyan"))
        for row in rows:
            name = Text(f"  {row.figure.name}" if group else row.figure.name)
            name.append(f"\n{'  ' if group else ''}{row.figure.good}", "dim")
            table.add_row(name, *figure_cells(row), Text(number(row.figure, row.real), "dim"))
    console.print(table)


def figure_cells(row: FigureRow) -> list[Text]:
    """Return a cell for each run: its figure, and below it the difference to the first run."""
    cells = []
    for one, apart in zip(row.values, row.differences, strict=True):
        text = Text(number(row.figure, one, interval=True))
        if one is not None:
            text.stylize("bold", 0, text.plain.find(" [") % (len(text) + 1))
        if apart is not None:
            text.append_text(_verdict(row, apart))
        cells.append(text)
    return cells


def _verdict(row: FigureRow, apart: Difference) -> Text:
    words, style = VERDICTS[apart.verdict]
    shown = number(row.figure, apart.interval, interval=True, signed=True)
    return Text.assemble("\n", (shown, "dim"), " ", (words, style))


def _table(names: list[str], *, real: bool = False) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", style="cyan" if not real else "", overflow="fold", min_width=22)
    for name in names:
        table.add_column(name, overflow="fold")
    if real:
        table.add_column("real", style="dim", no_wrap=True)
    return table
