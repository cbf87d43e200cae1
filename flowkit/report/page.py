"""The page of a report, section by section."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flowkit import __version__
from flowkit.html import Content, Markup, element
from flowkit.report.charts import Line, line_chart
from flowkit.report.figures import chip, facts_list, figure_table
from flowkit.report.recipe_cards import recipe_cards
from flowkit.report.samples import frames as sample_frames
from flowkit.report.samples import nearest_rows
from flowkit.runs import BROKEN, INTERRUPTED, RunSummary
from flowkit.runs.comparison import Comparison, compare, figure_rows, measured_alike
from flowkit.runs.curves import Curves, read_curves
from flowkit.runs.evaluations import EvaluationResults, best_of
from flowkit.runs.sessions import read_sessions
from flowkit.ui.compare_view import LEGEND, loss_cell, short_commit
from flowkit.ui.facts import plain
from flowkit.ui.quantities import NOTHING, duration, short_count, size, value
from flowkit.ui.runs_view import number

HERE = Path(__file__).parent
COLORS = 8  # of the style sheet
LONGEST_TITLE = 60  # characters
EVALUATIONS = 4  # of one run, side by side
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"  # no network
GENERATOR = "flowkit report"  # marks a page, so that no other one is replaced
GAUSSIANS = {"val_diagonal_gaussian_loss": "diagonal Gaussian", "val_full_gaussian_loss": "full Gaussian"}


@dataclass(frozen=True)
class Shown:
    """One run with all that the page shows of it."""

    run: RunSummary
    curves: Curves
    sessions: list[dict[str, Any]]
    color: str

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def chip(self) -> Markup:
        return chip(self.color)


def page(runs: Sequence[RunSummary], made: datetime, *, frames: int, pictures: bool) -> str:
    """Return the whole page. frames: steps whose samples are shown. pictures: whether to embed pictures of evaluations."""
    shown = [
        Shown(run, read_curves(run.path / "metrics.jsonl"), read_sessions(run.path), f"var(--series-{place % COLORS})")
        for place, run in enumerate(runs)
    ]
    several = len(shown) > 1
    comparison = compare(runs, [(one.sessions or [{}])[-1] for one in shown])
    sections = [
        _header(shown),
        _training(shown),
        _over_time(shown, frames) if frames else None,
        _evaluation(shown, comparison),
        _nearest(shown, comparison) if pictures else None,
        _differences(shown, comparison) if several else None,
        _recipes(shown),
        _origin(shown),
        element(
            "footer",
            f"Made by flowkit {__version__} on {_when(made.isoformat())}. This page loads nothing from the network.",
        ),
    ]
    title = " · ".join(one.name for one in shown)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{title} – flowkit"),
        element("style", Markup((HERE / "style.css").read_text("utf-8"))),
    )
    script = element("script", Markup((HERE / "slider.js").read_text("utf-8")))
    body = element("body", element("main", sections), script)
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _header(shown: list[Shown]) -> Markup:
    said = [(one, text) for one in shown
            for text in (*([one.run.reason] if one.run.state == BROKEN else []), *one.run.remarks)]  # fmt: skip
    remarks = [element("p", (one.chip, one.name, ": ") if len(shown) > 1 else None, text, class_="note")
               for one, text in said]  # fmt: skip
    if len(shown) > 1:
        names = " · ".join(one.name for one in shown)
        title = names if len(names) <= LONGEST_TITLE else f"{len(shown)} runs"
        return element("header", element("h1", title), _overview(shown), remarks)
    (one,) = shown
    run = one.run
    lede = [f"{run.arch or 'unknown network'} on {run.data or 'unknown data'}"]
    if one.sessions:
        lede.append(f"started {_when(one.sessions[0].get('time'))}")
    return element("header", element("h1", one.name), element("p", _pill(run), " ", " · ".join(lede), class_="lede"), remarks,
                   element("div", [_tile(*tile) for tile in _tiles(one)], class_="tiles"))  # fmt: skip


def _pill(run: RunSummary) -> Markup:
    words = (
        f"{run.state}: {run.reason}" if run.state == INTERRUPTED and run.reason not in ("", run.state) else run.state
    )
    return element("span", words, class_=f"pill {run.state}")


def _tile(name: str, shown: str, more: str) -> Markup:
    return element("div", element("span", name), element("b", shown), element("span", more), class_="tile")


def _tiles(one: Shown) -> list[tuple[str, str, str]]:
    run, best = one.run, one.run.best_validation or {}
    loss, zero = best.get("val_loss"), best.get("val_zero_loss")
    share = f"{100 * loss / zero:.1f}% of predicting zero" if loss and zero else "no validation"
    speed = one.curves.logged.get("rows_per_second")
    rows = f"{speed[-1][1]:,.0f} rows/s" if speed else ""
    total = f"of {run.total_steps:,}" if run.total_steps else ""
    parameters = run.sidecar.get("num_parameters")
    tiles = [
        ("Best validation loss", value(loss), share),
        ("Updates", NOTHING if run.step is None else f"{run.step:,}", total),
        ("Training time", NOTHING if run.seconds is None else duration(run.seconds), rows),
        ("Parameters", short_count(parameters) if isinstance(parameters, int) else NOTHING, run.arch or ""),
    ]
    figures = list(best_of(run.evaluations).values())
    tiles += [(best.figure.name, number(best.figure, best.figure.samples), best.figure.good) for best in figures[:1]]
    return tiles


def _overview(shown: list[Shown]) -> Markup:
    head = ("run", "state", "network", "data", "updates", "time", "best validation", "of predicting zero")
    rows = []
    for one in shown:
        run, best = one.run, one.run.best_validation or {}
        loss, zero = best.get("val_loss"), best.get("val_zero_loss")
        steps = NOTHING if run.step is None else f"{run.step:,}"
        cells = [
            element("th", one.chip, one.name), element("td", _pill(run)), element("td", run.arch or NOTHING),
            element("td", run.data or NOTHING),
            element("td", steps, class_="n"),
            element("td", NOTHING if run.seconds is None else duration(run.seconds), class_="n"),
            element("td", value(loss), class_="n"),
            element("td", f"{100 * loss / zero:.1f}%" if loss and zero else NOTHING, class_="n"),
        ]  # fmt: skip
        rows.append(element("tr", cells))
    heads = [element("th", name, class_="n" if place > 3 else None) for place, name in enumerate(head)]
    table = element("table", element("thead", element("tr", heads)), element("tbody", rows))
    return element("div", table, class_="card wide", style="margin-top:24px")


def _training(shown: list[Shown]) -> Markup | None:
    charts = [_loss_chart(shown), _time_chart(shown), _curve(shown, "lr", "Learning rate"),
              _curve(shown, "grad_norm", "Gradient norm, before clipping", log=True)]  # fmt: skip
    charts = [chart for chart in charts if chart is not None]
    if not charts:
        return _section("Training", element("p", "Nothing has been logged yet.", class_="dim"))
    return _section("Training", element("div", charts, class_="charts"))


def _loss_chart(shown: list[Shown]) -> Markup | None:
    several, lines = len(shown) > 1, []
    for one in shown:
        of = f"{one.name}: " if several else ""
        second = one.color if several else "var(--series-1)"
        lines.append(Line(f"{of}training", one.curves.logged.get("loss", []), one.color, "faint"))
        lines.append(Line(f"{of}validation", one.curves.validation("val_loss"), second, dots=True))
    tasks = {round(points[-1][1], 6) for one in shown if (points := one.curves.validation("val_zero_loss"))}
    if len(tasks) == 1:  # baselines of different tasks would be about different losses
        first = next(one for one in shown if one.curves.validation("val_zero_loss"))
        names = {"val_zero_loss": "predicting zero", **GAUSSIANS}
        colors = ("var(--faint)", "var(--series-5)", "var(--series-2)")
        for (key, name), color in zip(names.items(), colors, strict=True):
            lines.append(Line(name, first.curves.validation(key)[-1:], color, "baseline"))
    chart = line_chart(lines, label="Training and validation loss by step", log=True)
    return _figure("Loss", chart, lines, last=True)


def _time_chart(shown: list[Shown]) -> Markup | None:
    """Validation loss by time t: of several runs the last one, of one run the first, the middle and the last."""
    lines = []
    for one in shown:
        rows = [row for row in one.curves.validations if _steps(row)]
        if len(shown) > 1:
            lines += [Line(one.name, _steps(row), one.color) for row in rows[-1:]]
            continue
        picked = list({row["step"]: row for row in (rows[:1] + rows[len(rows) // 2 :][:1] + rows[-1:])}.values())
        colors = ("var(--faint)", "var(--series-4)", "var(--series-0)")[-len(picked) :] if picked else ()
        lines += [Line(f"step {row['step']:,}", _steps(row), color) for row, color in zip(picked, colors, strict=True)]
    chart = line_chart(
        lines, label="Validation loss by time t", log=True, x_words=lambda t: f"{t:g}", x_title="t", x_range=(0, 1)
    )
    return _figure("Validation loss by time t, from noise (0) to data (1)", chart, lines)


def _steps(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the outline of a line's `val_bins`: two points for each bin."""
    points = []
    for one in bins if isinstance(bins := row.get("val_bins"), list) else ():
        if (
            isinstance(one, list)
            and len(one) == 3
            and all(isinstance(x, int | float) and math.isfinite(x) for x in one)
        ):
            points += [(one[0], one[2]), (one[1], one[2])]
    return points


def _curve(shown: list[Shown], key: str, title: str, *, log: bool = False) -> Markup | None:
    lines = [Line(one.name, one.curves.logged.get(key, []), one.color) for one in shown]
    words = (lambda x: "0" if x == 0 else f"{x:.2g}") if key == "lr" else value
    chart = line_chart(lines, label=f"{title} by step", log=log, y_words=words)
    return _figure(title, chart, lines if len(shown) > 1 else ())


def _figure(title: str, chart: Markup | None, lines: Sequence[Line], *, last: bool = False) -> Markup | None:
    if chart is None:
        return None
    legend = [element("span", element("i", class_=line.kind, style=f"--color:{line.color}"), line.name,
                      f" {value(line.points[-1][1])}" if last else "")
              for line in lines if line.points]  # fmt: skip
    return element(
        "figure",
        element("h3", title),
        chart,
        element("div", legend, class_="legend") if legend else None,
        class_="card",
    )


def _over_time(shown: list[Shown], limit: int) -> Markup | None:
    parts: list[Markup] = []
    for one in shown:
        frames = sample_frames(one.run, limit)
        if not frames:
            continue
        boxes = [
            element(
                "div", element("h4", f"step {frame.step:,}"), frame.markup, class_="frame key" if frame.key else "frame"
            )
            for frame in frames
        ]
        title = element("h3", one.chip, one.name, style="margin-top:22px") if len(shown) > 1 else None
        parts.append(element("div", title, element("div", element("div", boxes, class_="frames"), class_="over-time")))
    if not parts:
        return None
    # Runs with one picture each stand side by side.
    alike = len(parts) > 1 and all("pictures one" in part for part in parts)
    note = element("p", "Drawn while training, from the same noise every time. Uncurated.", class_="dim")
    return _section("Samples over time", note, element("div", parts, class_="sides") if alike else parts)


def _evaluation(shown: list[Shown], comparison: Comparison) -> Markup:
    several = len(shown) > 1
    columns = [(one.name, one.color) for one in shown]
    evaluations, rows = list(comparison.evaluations), comparison.figures
    if not several and evaluations[0] is not None:  # all evaluations of the run, side by side
        alike = measured_alike(shown[0].run)[-EVALUATIONS:]
        evaluations, rows = alike, tuple(figure_rows(alike))
        columns = [(name, f"var(--series-{place})") for place, name in enumerate(_drawings(alike))]
    first = next((one for one in evaluations if one is not None), None)
    if first is None:
        notes = [element("p", note, class_="note") for note in comparison.notes] if several else []
        hint = "" if several else "This run has not been evaluated. Evaluate it: flowkit evaluate RUN"
        return _section("Evaluation", element("p", hint, class_="dim") if hint else None, *notes)
    legend = "Intervals are 90%. Real rows: other real rows in place of the samples, what a perfect model scores. "
    if len(columns) > 1:
        legend += LEGEND.replace("In brackets: 90% intervals. ", "").replace(
            "first run", "first run" if several else "first column"
        )
    facts = element("details", element("summary", "What was measured"), facts_list(first), open=True)
    notes = [element("p", note, class_="note") for note in (*first.notes, *(comparison.notes if several else ()))]
    about = element("p", legend, class_="dim", style="margin-top:10px")
    return _section("Evaluation", figure_table(columns, rows), about, facts, *notes)


def _drawings(evaluations: Sequence[EvaluationResults]) -> list[str]:
    """Return how the samples of each evaluation were drawn, as far as they differ: `euler, 1 steps, NFE 1`."""
    words = [[f"step {one.step:,}", *one.facts.get("samples", "").split(", ")[1:]] for one in evaluations]
    common = set.intersection(*map(set, words))
    return [", ".join(word for word in own if word not in common) or "samples" for own in words]


def _nearest(shown: list[Shown], comparison: Comparison) -> Markup | None:
    parts: list[Content] = []
    for one, evaluation in zip(shown, comparison.evaluations, strict=True):
        markup = None if evaluation is None else nearest_rows(evaluation.folder)
        if markup is not None:
            parts += [element("h3", one.chip, one.name, style="margin-top:22px") if len(shown) > 1 else None, markup]
    if not parts:
        return None
    note = "Each sample next to the training row that is nearest to it. Pairs that look the same are copies."
    return _section("Nearest training rows", element("p", note, class_="dim"), *parts)


def _differences(shown: list[Shown], comparison: Comparison) -> Markup:
    heads = element("tr", element("th", ""), [element("th", one.chip, one.name) for one in shown])

    def table(rows: Any, cell: Any) -> Markup:
        body = [element("tr", element("th", row.name, class_="mono"), [element("td", cell(row.name, one)) for one in row.values])
                for row in rows]  # fmt: skip
        return element("div", element("table", element("thead", heads), element("tbody", body)), class_="card wide")

    setting = lambda name, one: NOTHING if one is None else plain(one)  # noqa: E731
    version = lambda name, one: NOTHING if one is None else short_commit(one) if name == "commit" else str(one)  # noqa: E731
    same = element("p", "The recipes are equal, apart from their names.", class_="dim")
    parts: list[Content] = [table(comparison.recipe, setting) if comparison.recipe else same]
    parts += [element("h3", "Losses", style="margin-top:22px"), table(comparison.losses, loss_cell)]
    if comparison.setup:
        parts += [element("h3", "Versions and machine", style="margin-top:22px"), table(comparison.setup, version)]
    return _section("Differences", *parts)


def _recipes(shown: list[Shown]) -> Markup | None:
    parts: list[Content] = []
    for one in shown:
        if not one.run.recipe:
            continue
        cards = recipe_cards(one.run.recipe)
        several = len(shown) > 1
        parts.append(element("details", element("summary", one.chip, one.name), cards) if several else cards)
    if not parts:
        return None
    return _section("Recipe", element("p", "Keys with their default values are dimmed.", class_="dim"), *parts)


def _origin(shown: list[Shown]) -> Markup | None:
    parts: list[Content] = []
    for one in shown:
        if not one.sessions and not one.run.sidecar:
            continue
        if len(shown) > 1:
            parts.append(element("h3", one.chip, one.name, style="margin-top:18px"))
        items = [[element("dt", name), element("dd", content)] for name, content in _origin_facts(one) if content]
        parts.append(element("div", element("dl", items), class_="card"))
    return _section("Origin", *parts) if parts else None


def _origin_facts(one: Shown) -> list[tuple[str, Content]]:
    run, last = one.run, (one.sessions or [{}])[-1]
    git, versions = last.get("git"), last.get("versions")
    ends = [points[-1][1] for points in [one.curves.logged.get("memory_bytes")] if points]
    commit = git.get("flowkit") if isinstance(git, dict) else None
    sessions = f"{_when(one.sessions[0].get('time'))}" if one.sessions else None
    if len(one.sessions) > 1:
        sessions = f"{sessions}, resumed {len(one.sessions) - 1} times, last {_when(last.get('time'))}"
    known = {"python": last.get("python"), **(versions if isinstance(versions, dict) else {})}
    processes = last.get("processes")
    several = [f"{processes} processes"] if isinstance(processes, int) and processes > 1 else []
    host = [*several, *(str(last[name]) for name in ("host", "device", "platform") if last.get(name))]
    return [
        ("trained", sessions),
        ("command", element("code", _command(last["command"])) if isinstance(last.get("command"), str) else None),
        ("machine", " · ".join(host)),
        ("peak memory", size(max(ends)) if ends else None),
        ("versions", ", ".join(f"{name} {one}" for name, one in known.items() if one)),
        ("commit", element("code", commit) if isinstance(commit, str) else None),
        ("checkpoint", _checkpoint(run)),
        ("evaluations", ", ".join(evaluation.folder.name for evaluation in run.evaluations)),
    ]  # fmt: skip


def _command(command: str) -> str:
    """Return the command without the path of the interpreter."""
    before, module, after = command.partition(" -m flowkit ")
    return f"flowkit {after}" if module and " " not in before else command


def _checkpoint(run: RunSummary) -> str | None:
    step, data = run.sidecar.get("step"), run.sidecar.get("data")
    if step is None:
        return None
    rows = (
        f", trained on {data['train_rows']:,} rows"
        if isinstance(data, dict) and isinstance(data.get("train_rows"), int)
        else ""
    )
    return f"step {step:,}{rows}"


def _section(title: str, *children: Content) -> Markup:
    return element("section", element("h2", title), *children)


def _when(time: Any) -> str:
    """`29 Nov 2026, 05:05`: an ISO time for people."""
    try:
        return datetime.fromisoformat(str(time)).strftime("%-d %b %Y, %H:%M")
    except ValueError:
        return "an unknown time"
