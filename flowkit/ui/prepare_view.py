"""What `flowkit prepare` shows for sketches: a table of how many were kept, fitted and left out."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from flowkit.errors import listing

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from flowkit.sketch.prepare import ClassReport, PrepareReport


def summary(report: PrepareReport, width: int = 80) -> Group:
    """Return a table with a row per class and a total, why drawings were dropped, and what was written."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    total = report.total
    fits = width >= 64  # in a narrower terminal, the fit has a line below the table
    table = Table(title=f"{escape(str(report.source))} ({report.format})", title_justify="left", show_footer=True)
    table.box, table.pad_edge, table.padding = SIMPLE_HEAD, False, (0, 1, 0, 0)
    table.add_column("class", footer="total", min_width=5, overflow="fold")
    columns = _columns(total, fits)
    for name, footer in columns.items():
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    for one in report.classes:
        table.add_row(escape(one.name), *_columns(one, fits).values())
    parts: list[RenderableType] = [table]
    if total.errors:
        found = (
            ""
            if fits
            else f"{total.fitted:,} fitted, error: median {median(total.errors):.4f}, max {max(total.errors):.4f}; "
        )
        parts.append(
            Text(f"{found}error: Hausdorff distance of the fitted drawings on the canvas [-1, 1]", style="dim")
        )
    if total.dots:
        parts.append(Text(f"{total.dots:,} dots (strokes without length) were dropped from kept drawings", style="dim"))
    for remark, count in total.remarks.most_common():
        parts.append(Text(f"in {count:,} {'drawing' if count == 1 else 'drawings'}: {remark}", style="dim"))
    for reason, count in total.left_out.most_common():
        of = [f"{one.name} {one.left_out[reason]:,}" for one in report.classes if one.left_out[reason]]
        where = f" ({listing(of, 4)})" if len(report.classes) > 1 else ""
        parts.append(Text(f"left out {count:,}{where}: {reason}; the first is {report.examples[reason]}"))
    parts += [Text(note) for note in report.notes]
    shape = " x ".join(f"{n:,}" for n in report.shape)
    kept_classes = sum(one.kept > 0 for one in report.classes)
    parts.append(Text(f"{report.paths[0]}: {shape} in {kept_classes} {'class' if kept_classes == 1 else 'classes'}"))
    if report.splits:
        parts.append(Text("  " + ", ".join(f"{count:,} {name}" for name, count in report.splits.items())))
    parts += [Text(f"  {words}") for words in report.encoded.values()]
    return Group(*parts)


def _columns(one: ClassReport, fits: bool) -> dict[str, str]:
    errors = (f"{median(one.errors):.4f}", f"{max(one.errors):.4f}") if one.errors else ("0", "0")
    fit = {"fitted": f"{one.fitted:,}", "error: median": errors[0], "max": errors[1]} if fits else {}
    return {"read": f"{one.read:,}", "kept": f"{one.kept:,}", **fit, "left out": f"{one.left_out.total():,}"}
