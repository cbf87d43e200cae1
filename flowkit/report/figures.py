"""Evaluation figures as a table: values with intervals, verdicts, and the intervals as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from flowkit.html import Markup, element, join
from flowkit.report.charts import interval_bar
from flowkit.runs.comparison import BETTER, DIFFERENT, WORSE, FigureRow
from flowkit.runs.evaluations import EvaluationResults, FigureResult, Interval
from flowkit.ui.compare_view import VERDICTS
from flowkit.ui.runs_view import number

REAL, GAUSSIAN = "var(--faint)", "var(--series-6)"  # colors of the baselines


def figure_table(columns: Sequence[tuple[str, str]], rows: Sequence[FigureRow]) -> Markup:
    """Return a table with a column for each (name, color), then real rows and a Gaussian, and a picture of all."""
    column = lambda name, color: element("th", chip(color), name, class_="n")  # noqa: E731
    heads = [element("th", "figure"), *(column(*one) for one in columns), column("real rows", REAL),
             column("Gaussian", GAUSSIAN), element("th", "")]  # fmt: skip
    body: list[Markup] = []
    for group, members in groupby(rows, key=lambda row: row.figure.group):
        if group:
            body.append(element("tr", element("th", group, colspan=len(heads)), class_="group"))
        body += [_row(columns, row) for row in members]
    table = element("table", element("thead", element("tr", heads)), element("tbody", body))
    return element("div", table, class_="card wide")


def facts_list(one: EvaluationResults) -> Markup:
    """Return which rows and samples an evaluation used."""
    facts = {**one.facts, "protocol": one.protocol}
    return element("dl", [[element("dt", name), element("dd", text)] for name, text in facts.items()])


def chip(color: str) -> Markup:
    """Return a small square of a color."""
    return element("i", class_="chip", style=f"--color:{color}")


def _row(columns: Sequence[tuple[str, str]], row: FigureRow) -> Markup:
    figure = row.figure
    cells = []
    for one, apart in zip(row.values, row.differences, strict=True):
        verdict = None
        if apart is not None:
            style = {BETTER: "good", WORSE: "bad", DIFFERENT: "note"}.get(apart.verdict, "chance")
            tip = f"difference to the first column: {number(figure, apart.interval, interval=True, signed=True)}"
            verdict = element("small", VERDICTS[apart.verdict][0], class_=style, title=tip)
        cells.append(element("td", _estimate(figure, one, strong=True), verdict, class_="n"))
    bars = [(name, None if one is None else (one.value, one.low, one.high), color)
            for (name, color), one in zip(columns, row.values, strict=True)]  # fmt: skip
    for name, one, color in (
        ("real rows", figure.real, REAL),
        ("Gaussian", figure.gaussian, GAUSSIAN),
    ):
        if one is not None:
            bars.append((name, (one.value, one.low, one.high), color))
    return element(
        "tr",
        element("th", figure.name, element("small", figure.good, class_="dim"), title=figure.about),
        cells,
        element("td", _estimate(figure, figure.real), class_="n"),
        element("td", _estimate(figure, figure.gaussian), class_="n"),
        element("td", interval_bar(bars, figure.target), class_="n"),
    )


def _estimate(figure: FigureResult, one: Interval | None, *, strong: bool = False) -> Markup:
    whole = number(figure, one, interval=True)
    shown, _, ends = whole.partition(" [")
    return join(
        [element("b" if strong else "span", shown), element("small", f"[{ends}", class_="ends") if ends else None]
    )
