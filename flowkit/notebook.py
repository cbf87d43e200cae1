"""What a notebook shows: models, samples, data, recipes, evaluations and histories as HTML, and the progress of training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import cache, singledispatch
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from flowkit.checkpoint.history import History
from flowkit.data.dataset import Dataset, read_dataset
from flowkit.domain import Domain, get_domain
from flowkit.errors import UserError, listing
from flowkit.events import Doing, Event, Finished, Logged, Notice, RunStarted, Sampled, Validated
from flowkit.html import Content, Markup, element
from flowkit.metrics.report import Evaluation
from flowkit.recipe import Recipe
from flowkit.report.charts import Line, line_chart
from flowkit.report.figures import facts_list, figure_table
from flowkit.report.page import HERE
from flowkit.report.recipe_cards import recipe_cards
from flowkit.report.samples import PICTURES, drawn
from flowkit.runs.comparison import FigureRow
from flowkit.runs.curves import Thinned
from flowkit.runs.evaluations import results_of
from flowkit.sampling.load import LoadedModel
from flowkit.ui.facts import plain
from flowkit.ui.quantities import duration, rate, shape, value

BLUE, ORANGE, GRAY = "var(--series-0)", "var(--series-1)", "var(--faint)"
REDRAWN = 1.0  # seconds between two pictures of the progress
SHOWN_NOTICES = 4


@singledispatch
def as_html(thing: Any) -> str:
    """Return the HTML that a notebook shows for `thing`."""
    raise TypeError(f"flowkit does not show {type(thing).__name__} as HTML")


@as_html.register
def _(model: LoadedModel) -> str:
    info, parameters = model.info, sum(parameter.numel() for parameter in model.model.parameters())
    validation = info.get("validation") or {}
    loss, zero = validation.get("loss"), validation.get("zero_loss")
    share = f" · {100 * loss / zero:.1f}% of predicting zero" if loss and zero else ""
    facts: dict[str, Content] = {
        "checkpoint": element("code", str(model.files.directory)),
        "network": f"{info['architecture']} · {parameters:,} parameters",
        "weights": f"{model.weights} of step {info.get('step') or 0:,}",
        "samples": f"{model.domain.noun} of shape {shape(model.shape)}, on {model.device}",
        "classes": _names(model.class_names) if model.class_names else None,
        "flow": plain(model.flow.plain()),
        "sampling": plain(model.sampling.to_info()),
        "validation loss": f"{value(loss)}{share}" if loss else None,
    }
    chart = None
    with contextlib.suppress(UserError):  # not in a run
        chart = _losses(model.history)
    return _box("Model", _facts(facts), chart)


@as_html.register
def _(data: Dataset) -> str:
    source = {name: one for name, one in data.info.items() if isinstance(one, str | int | float)}
    facts: dict[str, Content] = {
        "rows": f"{len(data):,} of shape {shape(data.x.shape[1:])}",
        "classes": _names(data.class_names) if data.class_label is not None else None,
        "condition": shape(data.condition.shape[1:]) if data.condition is not None else None,
        **{kind: f"{len(one.tokens):,} as {shape(one.shape)}" for kind, one in data.encoded.items()},
        "split": " · ".join(f"{len(data.rows(name)):,} {name}" for name in ("train", "validation", "test"))
        if data.split is not None else None,
        "source": plain(source) if source else None,
    }  # fmt: skip
    picture = None
    with contextlib.suppress(UserError):  # a kind whose code is not trusted
        domain = get_domain(data.kind)
        picture = drawn(_some(data, domain), domain)
    return _box(f"Data set: {data.kind}", _facts(facts), picture)


@as_html.register
def _(recipe: Recipe) -> str:
    return _box(repr(recipe)[1:-1], recipe_cards(recipe.to_dict()))


@as_html.register
def _(evaluation: Evaluation) -> str:
    found = results_of(evaluation.to_json(), Path("evaluation.json"))
    rows = [FigureRow(one, (one.samples,), one.real, (None,)) for one in found.figures.values()]
    notes = [element("p", note, class_="note") for note in found.notes]
    return _box(found.title, figure_table([("samples", BLUE)], rows), facts_list(found), notes)


@as_html.register
def _(history: History) -> str:
    return _box(repr(history)[1:-1].partition(";")[0], _losses(history))


def _names(names: Sequence[str]) -> str:
    return f"{len(names):,}: {listing(names, 30)}"


def _some(data: Dataset, domain: Domain) -> Dataset:
    """Return a few rows, of as many classes as possible."""
    if domain.together or len(data) <= PICTURES:
        return data
    rows = np.arange(PICTURES)
    if data.class_label is not None:
        _, first = np.unique(data.class_label, return_index=True)
        rest = np.setdiff1d(np.arange(min(len(data), 10 * PICTURES)), first)
        rows = np.concatenate([first, rest])[:PICTURES]
    return data.take(rows)


def _losses(history: History) -> Markup | None:
    lines = []
    for name, key, color, kind in (("training", "loss", BLUE, "faint"), ("validation", "val_loss", ORANGE, "line"),
                                   ("predicting zero", "val_zero_loss", GRAY, "baseline")):  # fmt: skip
        if key in history:
            points = Thinned()
            for step, loss in zip(*history.curve(key), strict=True):
                points.add(float(step), float(loss))
            lines.append(Line(name, points.points, color, kind, dots=kind == "line"))
    return _chart(lines)


def _chart(lines: list[Line]) -> Markup | None:
    chart = line_chart(lines, label="Loss by step", log=True)
    if chart is None:
        return None
    mark = lambda line: element("i", class_=line.kind, style=f"--color:{line.color}")  # noqa: E731
    legend = [element("span", mark(line), f"{line.name} {value(line.points[-1][1])}") for line in lines if line.points]
    return element(
        "figure", chart, element("div", legend, class_="legend"), class_="card", style="flex:1 1 300px;max-width:560px"
    )


def _facts(facts: Mapping[str, Content]) -> Markup:
    return element("dl", [[element("dt", name), element("dd", shown)] for name, shown in facts.items() if shown])


@cache
def _style() -> Markup:
    """The style of the report, for what is inside a `flowkit` element only."""
    css = (HERE / "style.css").read_text("utf-8").replace(":root", "&")
    more = (
        "&{font:14px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums;background:var(--paper);color:var(--ink);"
        "border:1px solid var(--rule);border-radius:12px;padding:14px 16px;max-width:1000px}"
        "&>*+*{margin-top:12px}.pictures{flex:1 1 260px}progress{width:100%;accent-color:var(--accent)}"
    )
    return Markup(f".flowkit{{{css}{more}}}")


def _box(title: str, *children: Content) -> str:
    return str(element("div", element("style", _style()), element("h3", title), *children, class_="flowkit"))


class NotebookListener:
    """The progress of a run in one output cell that is redrawn at most every second: bar, losses, latest samples.

    Without IPython's display it raises ImportError when it is made.
    """

    def __init__(self) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._display, self._html = display, HTML
        self._handle: Any = None
        self._started: RunStarted | None = None
        self._logged: Logged | None = None
        self._curves = {"training": Thinned(), "validation": Thinned()}
        self._zero: list[tuple[float, float]] = []
        self._samples: Markup | None = None
        self._notices: list[str] = []
        self._ended, self._doing = "", ""
        self._drawn_at = 0.0

    def __call__(self, event: Event) -> None:
        now = False
        match event:
            case RunStarted():
                self._started, now = event, True
            case Logged():
                self._logged = event
                self._curves["training"].add(event.step, event.loss)
            case Validated():
                self._curves["validation"].add(event.step, event.loss)
                self._zero = [(event.step, event.zero_loss)]
            case Sampled():
                self._samples = _sampled(event)
            case Notice():
                self._notices = [*self._notices, event.text][-SHOWN_NOTICES:]
            case Doing():
                self._doing = event.what
                return
            case Finished():
                self._ended, now = f"{event.reason} at step {event.step:,} after {duration(event.seconds)}", True
            case _:
                return
        if now or time.monotonic() - self._drawn_at > REDRAWN:
            self._draw()

    def _draw(self) -> None:
        started, logged = self._started, self._logged
        if started is None:
            return
        step = logged.step if logged is not None else started.start_step
        words = [f"step {step:,} of {started.total_steps:,}"]
        if self._ended:
            words = [self._ended]
        elif logged is not None:
            words += [f"{rate(logged.rows_per_second)} {started.noun}/s", f"{duration(logged.seconds_left)} left"]
        about = f"{started.arch} · {started.num_parameters:,} parameters · {started.data} · {started.device}"
        lines = [
            Line("training", self._curves["training"].points, BLUE, "faint"),
            Line("validation", self._curves["validation"].points, ORANGE, dots=True),
            Line("predicting zero", self._zero, GRAY, "baseline"),
        ]
        html = _box(
            started.name,
            element("div", about, class_="dim"),
            element("progress", max=started.total_steps, value=step),
            element("div", " · ".join(words)),
            element(
                "div", _chart(lines), self._samples, style="display:flex;flex-wrap:wrap;gap:14px;align-items:start"
            ),
            [element("p", notice, class_="note") for notice in self._notices],
        )
        if self._handle is None:
            self._handle = self._display(self._html(html), display_id=True)
        else:
            self._handle.update(self._html(html))
        self._drawn_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._ended:
            self._ended = f"ended with {type(error).__name__}"
        self._draw()


def _sampled(event: Sampled) -> Markup | None:
    try:
        data = read_dataset(event.path / "samples.safetensors", check=False)
        return drawn(data, get_domain(data.kind), limit=8)
    except UserError:
        return None
