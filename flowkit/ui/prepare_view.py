"""How `flowkit prepare` shows itself: a bar while it reads, and a table of what became of every drawing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from flowkit.sketch.prepare import ClassReport, PrepareReport


@contextlib.contextmanager
def reading_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr; yields what `prepare` wants for `progress`. Silent where stderr is no terminal."""
    from rich.markup import escape
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from flowkit.ui.progress import passing

    columns = (TextColumn("reading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
               TextColumn("[dim]{task.description}"))  # fmt: skip
    with passing(*columns) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, where: progress.update(
            task, completed=done, total=total, description=escape(where[-40:])
        )


def summary(report: PrepareReport) -> Group:
    """The table (a row a class, a total), why drawings were left out with an example each, and what was written."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    total = report.total
    table = Table(title=f"{escape(str(report.source))} ({report.format})", title_justify="left", show_footer=True)
    table.box, table.pad_edge, table.padding = SIMPLE_HEAD, False, (0, 1, 0, 0)
    table.add_column("class", footer="total", min_width=5)
    for name, footer in zip(("read", "kept", "fitted", "error: median", "max", "left out"), _row(total), strict=True):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    marks = {reason: f"({number})" for number, (reason, _) in enumerate(total.left_out.most_common(), 1)}
    if marks:
        table.add_column("why", no_wrap=True)
    for one in report.classes:
        whys = [f"{count:,} {marks[reason]}" for reason, count in one.left_out.most_common()]
        table.add_row(escape(one.name), *_row(one), *([", ".join(whys)] if marks else []))
    parts: list[RenderableType] = [table]
    if total.errors:
        note = "error: of the fitted, their Hausdorff distance on the canvas [-1, 1]"
        parts.append(Text(note, style="dim"))
    if total.dots:
        parts.append(Text(f"{total.dots:,} dots (strokes without length) were dropped from what was kept", style="dim"))
    for remark, count in total.remarks.most_common():
        parts.append(Text(f"in {count:,} {'drawing' if count == 1 else 'drawings'}: {remark}", style="dim"))
    for reason, count in total.left_out.most_common():
        parts.append(Text(f"{marks[reason]} left out {count:,}: {reason}; the first is {report.examples[reason]}"))
    shape = " x ".join(f"{n:,}" for n in report.shape)
    kept_classes = sum(one.kept > 0 for one in report.classes)
    parts.append(Text(f"{report.paths[0]}: {shape} in {kept_classes} {'class' if kept_classes == 1 else 'classes'}"))
    if report.splits:
        parts.append(Text("  " + ", ".join(f"{count:,} {name}" for name, count in report.splits.items())))
    return Group(*parts)


def _row(one: ClassReport) -> list[str]:
    errors = [f"{median(one.errors):.4f}", f"{max(one.errors):.4f}"] if one.errors else ["0", "0"]
    return [f"{one.read:,}", f"{one.kept:,}", f"{one.fitted:,}", *errors, f"{one.left_out.total():,}"]
