"""The report of `flowkit doctor`: one line per finding, and how to fix each problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from flowkit.ui.heading import heading
from flowkit.ui.wording import plural

if TYPE_CHECKING:
    from flowkit.doctor import Finding, Report

STYLES: Mapping[str, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}
MARK, NAME = 9, 15  # cells of the first two columns


def show(report: Report, console: Console) -> None:
    """Print a report of `flowkit.doctor.examine`."""
    for group in dict.fromkeys(finding.group for finding in report.findings):
        console.print(heading(group, "", console.width))
        for finding in report.findings:
            if finding.group == group:
                console.print(_Line(finding))
    console.print(Text())
    console.print(_verdict(report))


class _Line:
    """`ok       torch          2.9.1`. The text wraps beside the name, and the fix has lines of its own."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        finding = self.finding
        room = options.update_width(max(1, options.max_width - MARK - NAME))
        first = [
            Segment(f"{finding.state:<{MARK}}", console.get_style(STYLES[finding.state])),
            Segment(f"{finding.name:<{NAME}}"),
        ]
        shown = Text(finding.found)
        lines = console.render_lines(shown, room, pad=False)
        if finding.fix:
            fix = options.update_width(max(1, options.max_width - MARK - NAME - 2))
            for number, line in enumerate(console.render_lines(Text(finding.fix, "cyan"), fix, pad=False)):
                lines.append([Segment("→ " if number == 0 else "  ", console.get_style("cyan")), *line])
        for number, line in enumerate(lines):
            yield from first if number == 0 else [Segment(" " * (MARK + NAME))]
            yield from line
            yield Segment.line()


def _verdict(report: Report) -> Text:
    if report.problems:
        text = Text(plural(report.problems, "problem"), "bold red")
        text.append(
            ": flowkit will not run correctly until it is fixed"
            if report.problems == 1
            else ": flowkit will not run correctly until they are fixed",
            "not bold default",
        )
    else:
        text = Text("flowkit can run here", "bold green")
    if report.notes:
        text.append(f" · {plural(report.notes, 'note')}", "yellow")
    return text
