"""Two or more runs side by side: what differs in their recipes, their losses and their evaluations. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flowkit.runs import RunSummary
from flowkit.runs.evaluations import EvaluationResults, FigureResult, Interval

LEVEL = 0.9  # of the intervals in evaluations
NAMES_ONLY = ("run.name", "run.dir")  # keys that say nothing of what was trained
SAME = 1e-6  # relative difference up to which two losses of predicting zero are of the same validation
BETTER, WORSE, DIFFERENT, CHANCE = "better", "worse", "different", "within chance"


@dataclass(frozen=True)
class Row:
    """One line of a comparison: a value for each run, None where a run has none."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Difference:
    """A figure of one run minus that of the first run, with its 90% interval."""

    interval: Interval
    verdict: str  # "better" | "worse" | "different" (neither is better) | "within chance"


@dataclass(frozen=True)
class FigureRow:
    figure: FigureResult  # of the first run that has it: its name, unit and what is good
    values: tuple[Interval | None, ...]  # of each run
    real: Interval | None  # real rows in place of the samples
    differences: tuple[Difference | None, ...]  # of each run from the first; None for the first


@dataclass(frozen=True)
class Comparison:
    runs: tuple[RunSummary, ...]
    recipe: tuple[Row, ...]  # keys with different values; a key that a recipe does not have is None
    setup: tuple[Row, ...]  # versions and machines that differ
    losses: tuple[Row, ...]
    evaluations: tuple[EvaluationResults | None, ...]  # the one of each run whose figures are compared
    figures: tuple[FigureRow, ...]
    notes: tuple[str, ...]  # why something is not comparable

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able comparison that `flowkit compare --json` prints. Figures are unscaled."""
        names = [run.name for run in self.runs]
        rows = lambda found: {row.name: list(row.values) for row in found}  # noqa: E731
        return {
            "runs": [run.to_json() for run in self.runs],
            "recipe": rows(self.recipe),
            "setup": rows(self.setup),
            "losses": rows(self.losses),
            "evaluations": [None if one is None else str(one.folder) for one in self.evaluations],
            "figures": {
                row.figure.key: {
                    "name": row.figure.name, "good": row.figure.good,
                    "values": [None if value is None else asdict(value) for value in row.values],
                    "differences": [None if one is None else {**asdict(one.interval), "verdict": one.verdict}
                                    for one in row.differences],
                }
                for row in self.figures
            },
            "level": LEVEL,
            "names": names,
            "notes": list(self.notes),
        }  # fmt: skip


def compare(runs: Sequence[RunSummary], sessions: Sequence[Mapping[str, Any]] = ()) -> Comparison:
    """Compare runs with the first of them. sessions: for each run, the last line of its sessions.jsonl."""
    notes: list[str] = []
    evaluations = _comparable(runs, notes)
    return Comparison(
        runs=tuple(runs),
        recipe=tuple(recipe_rows([run.recipe for run in runs])),
        setup=tuple(_setup(sessions)),
        losses=tuple(_losses(runs, notes)),
        evaluations=evaluations,
        figures=tuple(figure_rows(evaluations)),
        notes=tuple(notes),
    )


def recipe_rows(recipes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the keys whose values differ. A network of another architecture differs as a whole, without its arguments."""
    flat = [flat_recipe(recipe) for recipe in recipes]
    archs = [tables.get("model.arch") for tables in flat if tables]
    another = any(arch != archs[0] for arch in archs)
    rows = []
    for key in dict.fromkeys(key for tables in flat for key in tables):
        values = tuple(tables.get(key) for tables in flat)
        if key in NAMES_ONLY or all(value == values[0] for value in values):
            continue
        if another and key.startswith("model.") and key != "model.arch" and None in values:
            continue  # an argument that another architecture does not have
        rows.append(Row(key, values))
    return rows


def flat_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"optim.lr": 1e-4, ...}`. A component stays one value: its name, or a table with its settings."""
    flat: dict[str, Any] = {}

    def add(prefix: str, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if isinstance(value, Mapping) and "name" not in value:
                add(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = value

    for section, table in recipe.items():
        if isinstance(table, Mapping):
            add(f"{section}.", table)
    return flat


def difference(a: Interval, b: Interval) -> Interval:
    """Return b - a with its interval, from the intervals of two independent estimates (MOVER, Zou and Donner, 2008).

    Each end of the interval of the difference has the squared distances of the two ends that lead to it.
    """
    value = b.value - a.value
    down = math.hypot(b.value - b.low, a.high - a.value)
    up = math.hypot(b.high - b.value, a.value - a.low)
    return Interval(value, value - down, value + up)


def judge(figure: FigureResult, a: Interval, b: Interval) -> Difference:
    """Say whether `b` differs from `a` beyond chance, and whether it is then better."""
    found = difference(a, b)
    if found.low <= 0 <= found.high:
        return Difference(found, CHANCE)
    first, second = figure.badness(a.value), figure.badness(b.value)
    if first is None or second is None or first == second:
        return Difference(found, DIFFERENT)
    return Difference(found, BETTER if second < first else WORSE)


def _setup(sessions: Sequence[Mapping[str, Any]]) -> list[Row]:
    flat = []
    for session in sessions:
        versions, git = session.get("versions"), session.get("git")
        flat.append({
            **{name: session.get(name) for name in ("host", "device", "processes", "python", "platform")},
            **(versions if isinstance(versions, Mapping) else {}),
            "commit": git.get("flowkit") if isinstance(git, Mapping) else None,
        })  # fmt: skip
    names = dict.fromkeys(name for table in flat for name in table)
    shown = lambda value: None if value is None else str(value)  # noqa: E731
    rows = [Row(name, tuple(shown(table.get(name)) for table in flat)) for name in names]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def _losses(runs: Sequence[RunSummary], notes: list[str]) -> list[Row]:
    last, best = [run.validation or {} for run in runs], [run.best_validation or {} for run in runs]
    zero = [_number(row.get("val_zero_loss")) for row in last]
    share = [None if loss is None or not of else loss / of
             for loss, of in zip([_number(row.get("val_loss")) for row in best], zero, strict=True)]  # fmt: skip
    known = [one for one in zero if one is not None]
    if any(abs(one - known[0]) > SAME * abs(known[0]) for one in known):
        notes.append(
            "The runs were validated on different rows or another objective (predicting zero has another loss), so their "
            "losses are not comparable. Compare their fraction of predicting zero"
        )
    return [
        Row("step", tuple(run.step for run in runs)),
        Row("training time", tuple(run.seconds for run in runs)),
        Row("training loss", tuple(run.loss for run in runs)),
        Row("validation loss", tuple(_number(row.get("val_loss")) for row in last)),
        Row("best validation loss", tuple(_number(row.get("val_loss")) for row in best)),
        Row("of predicting zero", tuple(share)),
        Row("best step", tuple(row.get("step") for row in best)),
    ]


def _comparable(runs: Sequence[RunSummary], notes: list[str]) -> tuple[EvaluationResults | None, ...]:
    """Choose the evaluation of each run: of the same protocol, on the same rows and drawn alike in most runs, then the newest."""
    missing = [run.name for run in runs if not run.evaluations]
    if missing and len(missing) < len(runs):
        notes.append(f"Not evaluated: {' and '.join(missing)}. Evaluate a run: flowkit evaluate RUN")
    elif missing:
        notes.append(
            "No run has been evaluated, so there are no figures to compare. Evaluate a run: flowkit evaluate RUN"
        )
        return (None,) * len(runs)
    offers = [[(_measured(run, one), one) for one in run.evaluations] for run in runs]
    rows = _commonest(offers)
    apart = [run.name for run, offer in zip(runs, offers, strict=True) if offer and rows not in dict(offer)]
    if apart:
        notes.append(
            f"{' and '.join(apart)}: evaluated by another protocol or on other rows, so the figures are not comparable"
        )
    alike = [[(_drawn(one), one) for kind, one in offer if kind == rows] for offer in offers]
    drawing = _commonest(alike)
    chosen = tuple(dict(offer).get(drawing) or (offer[-1][1] if offer else None) for offer in alike)
    words = {_drawn(one) for one in chosen if one is not None}
    if len(words) > 1:
        shown = [f"{run.name}: {one.facts.get('samples', '?')}" for run, one in zip(runs, chosen, strict=True) if one]
        notes.append("The samples were drawn differently. " + ". ".join(shown))
    return chosen


def _commonest(offers: Sequence[Sequence[tuple[Any, EvaluationResults]]]) -> Any:
    """Return the kind of evaluation that most runs have; of several, that of the newest evaluation."""
    kinds = dict.fromkeys(kind for offer in offers for kind, _ in offer)
    newest = lambda kind: max(one.time for offer in offers for of, one in offer if of == kind)  # noqa: E731
    return max(kinds, key=lambda kind: (sum(kind in dict(offer) for offer in offers), newest(kind)))


def _drawn(one: EvaluationResults) -> str:
    """Return what must be equal for samples to be drawn alike: weights, solver, steps, guidance, seed."""
    return json.dumps([one.asked.get(key) for key in ("weights", "sampling", "seed")], sort_keys=True)


def _measured(run: RunSummary, one: EvaluationResults) -> tuple[Any, ...]:
    """Return what must be equal for figures to be comparable: the protocol and the reference rows."""
    data = one.asked.get("data")
    if data is None:
        table = run.recipe.get("data")
        table = table if isinstance(table, Mapping) else {}
        data = tuple(str(table.get(key)) for key in ("source", "num_samples", "seed", "val_fraction", "subset"))
    return (one.protocol, str(data), *(str(one.settings.get(key)) for key in ("split", "rows", "held_out_rows")))


def measured_alike(run: RunSummary) -> list[EvaluationResults]:
    """Return the evaluations of a run whose figures are comparable with those of its last one, in order."""
    return [one for one in run.evaluations if _measured(run, one) == _measured(run, run.evaluations[-1])]


def figure_rows(evaluations: Sequence[EvaluationResults | None]) -> list[FigureRow]:
    """Return the figures of evaluations that are comparable, with the differences to the first one."""
    tables = [{} if one is None else one.figures for one in evaluations]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        figures = [table.get(key) for table in tables]
        shown = next(figure for figure in figures if figure is not None)
        values = tuple(None if figure is None else figure.samples for figure in figures)
        first = values[0]
        differences = [None if number == 0 or first is None or value is None else judge(shown, first, value)
                       for number, value in enumerate(values)]  # fmt: skip
        rows.append(FigureRow(shown, values, shown.real, tuple(differences)))
    return rows


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
