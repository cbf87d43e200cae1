"""What `flowkit prepare` shows for sentences: a bar per stage, and a table of how many were kept and dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from flowkit.text.prepare_report import Pair, TextReport

SHOWN = 48  # characters of a sentence in an example
COUNTED = {"encoding", "splitting"}  # stages counted in sentences; the others are counted in bytes or pairs


@contextlib.contextmanager
def preparing_bar() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """Yields the arguments `tell` and `notice` of `prepare`, which write to stderr. Shows no bar if that is not a terminal.

    A stage of unknown length (0 of 0) is not shown.
    """
    from rich.markup import escape
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from flowkit.ui.progress import passing

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with passing(*columns) as progress:
        task, stage = progress.add_task("reading", total=None), "reading"

        def tell(now: str, done: int, total: int) -> None:
            nonlocal stage
            said = f"{now} {done:,} of {total:,}" if now in COUNTED else now
            if now == stage:
                progress.update(task, total=total, completed=done, description=said)
                return
            stage = now
            if not total:  # loading, downloading and training a codec have bars of their own
                progress.stop()
                return
            progress.start()
            progress.reset(
                task, total=total, completed=done, description=said
            )  # its speed is independent of the last stage's

        yield tell, lambda text: progress.console.print(escape(text), highlight=False, soft_wrap=True)


def summary(report: TextReport, width: int = 80) -> Group:
    """Return a table of what was read and dropped, with examples, and what was written."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{escape(str(report.source))} ({report.format})", title_justify="left")
    table.box, table.pad_edge, table.padding = SIMPLE_HEAD, False, (0, 1, 0, 0)
    fits = width >= 64  # in a narrower terminal, the examples have lines of their own
    table.add_column("", no_wrap=fits, overflow="fold")
    table.add_column("vectors" if report.unit == "vectors" else "sentences", justify="right", no_wrap=True)
    if fits:
        table.add_column("for example", overflow="fold")
    examples = []
    for name, count, example in _steps(report):
        table.add_row(name, f"{count:,}", *([Text(example)] if fits else []))
        if example and not fits:
            examples.append(Text(f"{name}, for example {example}"))
    rows, dimension = report.shape
    found = report.statistics
    parts: list[RenderableType] = [
        table,
        *examples,
        Text(f"{report.paths[0]}: {rows:,} x {dimension:,}" + (f", by {report.codec}" if report.codec else "")),
        Text("  " + ", ".join(f"{count:,} {name}" for name, count in report.splits.items())),
        Text(f"  norm {found.norm:.3g} ± {found.norm_std:.2g}, std {found.element_std:.3g} (training rows)"),
    ]
    if report.truncated:
        what = "sentence was" if report.truncated == 1 else "sentences were"
        hint = "" if report.sentences is not None else "; --split-sentences cuts paragraphs"
        parts.append(
            Text(f"{report.truncated:,} {what} too long for the codec and cut at the end{hint}", style="yellow")
        )
    parts += [Text(remark, style="yellow") for remark in report.remarks]
    return Group(*parts)


def _steps(report: TextReport) -> Iterator[tuple[str, int, str]]:
    """Yield (what, how many, an example), from what was read to what is kept."""
    yield "read" if report.unit == "vectors" else f"{report.unit} read", report.read, ""
    if report.empty:
        yield "empty", -report.empty, ""
    if report.sentences is not None:
        yield "split into", report.sentences, ""
    yield "exact duplicates", -report.exact.count, _example(report.exact.pair, report.unit)
    if report.threshold:
        yield (
            f"near-duplicates (cosine above {report.threshold:g})",
            -report.near.count,
            _example(report.near.pair, report.unit),
        )
    yield "kept", report.shape[0], ""


def _example(pair: Pair | None, unit: str) -> str:
    if pair is None:
        return ""
    first, second = pair.numbers
    where = (
        f"{unit if unit == 'lines' else 'rows'} {first:,} and {second:,}"
        if first != second
        else f"twice in line {first:,}"
    )
    if pair.cosine is None:
        return f"{where}: {_cut(pair.texts[0])}" if pair.texts else where
    said = f"{where}, cosine {pair.cosine:.3f}"
    return f"{said}: {_cut(pair.texts[0])} | {_cut(pair.texts[1])}" if pair.texts else said


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1].rstrip() + "…"
