"""The table of an evaluation, and the progress bar of making one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowkit.metrics.report import Evaluation, Figure
from flowkit.metrics.resampling import Estimate
from flowkit.ui.progress import stage_bar

HEADINGS = {"gaussian": "Gaussian"}
ONE_LINE = 118  # terminal width from which value and interval stand side by side


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the facts, the table and the paths of the files to stdout."""
    console = console or Console()
    console.print(Text(evaluation.title, style="bold"))
    facts = Table.grid(padding=(0, 2))
    for name, text in evaluation.facts.items():
        facts.add_row(Text(name, style="cyan"), text)
    console.print(Padding(facts, (0, 0, 1, 2)))
    console.print(evaluation_table(evaluation, wide=console.width >= ONE_LINE))
    brackets = "In brackets: 90% intervals. real: other real rows in place of the samples. "
    console.print(Text(brackets + evaluation.legend, style="dim"))
    for note in evaluation.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    console.print(Text(f"evaluation protocol {evaluation.protocol}; files:", style="dim"))
    for file in evaluation.files:
        console.print(f"  {file}", highlight=False, soft_wrap=True)


def evaluation_table(evaluation: Evaluation, wide: bool) -> Table:
    """Return a table with one row per metric. In a narrow terminal, intervals, units and hints are on a second line."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", min_width=23)
    for column in evaluation.columns:
        table.add_column(HEADINGS.get(column, column), justify="right", no_wrap=True)
    if wide:
        table.add_column("", style="dim", no_wrap=True)
    for number, (group, figures) in enumerate(groupby(evaluation.figures, key=lambda figure: figure.group)):
        if number and wide:
            table.add_row()
        table.add_row(Text(group, style="cyan"))
        for figure in figures:
            unit = f", {figure.unit}" if figure.unit else ""
            name = Text(f"  {figure.name}{unit if wide else ''}")
            if not wide:
                name.append(f"\n  {figure.good}{unit}", "dim")
            # Noise is far off, so its interval says nothing.
            cells = [_cell(getattr(figure, one), figure, wide, one != "noise") for one in evaluation.columns]
            cells[0].stylize("bold", 0, cells[0].plain.find(" " if wide else "\n") % (len(cells[0]) + 1))
            table.add_row(name, *cells, *([figure.good] if wide else []))
    return table


def _cell(estimate: Estimate | None, figure: Figure, wide: bool, interval: bool) -> Text:
    if estimate is None:
        return Text("–", style="dim")
    shown = estimate.scaled(figure.scale)
    decimals = 1 if figure.unit == "%" else _decimals(shown)
    if not interval:
        return Text(f"{shown.value:.{decimals}f}")
    ends = f"[{shown.low:.{decimals}f}, {shown.high:.{decimals}f}]"
    return Text.assemble(f"{shown.value:.{decimals}f}", " " if wide else "\n", (f"{ends:>14}" if wide else ends, "dim"))


def _decimals(shown: Estimate) -> int:
    """Return the number of decimals that gives the larger end three significant digits."""
    largest = max(abs(shown.low), abs(shown.high), abs(shown.value))
    return 2 if largest < 10 else 1 if largest < 100 else 0


def evaluation_progress() -> AbstractContextManager[Callable[[str, int, int], None]]:
    """Show a bar on stderr for the progress of `evaluate_*`."""
    return stage_bar("opening")
