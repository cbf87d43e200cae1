"""The evaluations of a run, read from `evaluation/*/evaluation.json`. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowkit.data.files import read_json
from flowkit.errors import UserError

RESULTS = "evaluation.json"


@dataclass(frozen=True)
class Interval:
    """A figure with its 90% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FigureResult:
    """One metric of an evaluation, unscaled: fractions are from 0 to 1. It is shown times `scale`, in `unit`."""

    key: str
    name: str
    good: str  # "lower is better", "higher is better", "50 is perfect", "like real", ...
    group: str
    about: str
    unit: str
    scale: float
    samples: Interval | None
    real: Interval | None
    gaussian: Interval | None

    @property
    def target(self) -> float | None:
        """The best value, if there is one."""
        number, _, rest = self.good.partition(" ")
        if self.good == "like real":
            return None if self.real is None else self.real.value
        return int(number) / self.scale if rest == "is perfect" and number.isdecimal() else None

    def badness(self, value: float) -> float | None:
        """Return how far `value` is from good: lower is better. None if the figure is informative only."""
        if self.good == "lower is better":
            return value
        if self.good == "higher is better":
            return -value
        return None if self.target is None else abs(value - self.target)


@dataclass(frozen=True)
class EvaluationResults:
    folder: Path
    protocol: str
    title: str
    step: int  # of the checkpoint; 0 if unknown
    facts: dict[str, str]
    notes: tuple[str, ...]
    settings: dict[str, Any]
    figures: dict[str, FigureResult]
    time: float  # when it was written, in seconds since the epoch

    @property
    def asked(self) -> dict[str, Any]:
        found = self.settings.get("asked")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Best:
    figure: FigureResult
    evaluation: str  # name of its folder


def read_evaluations(run: Path, remarks: list[str]) -> list[EvaluationResults]:
    """Return the evaluations of a run by step, then age. Those that cannot be read are named in `remarks`."""
    found = []
    for path in sorted((run / "evaluation").glob(f"*/{RESULTS}")):
        try:
            found.append(read_evaluation(path))
        except UserError as error:
            remarks.append(str(error))
    return sorted(found, key=lambda one: (one.step, one.time))


def read_evaluation(path: Path) -> EvaluationResults:
    """Read an evaluation.json. Raises UserError if it is not one."""
    return results_of(read_json(path), path)


def results_of(content: dict[str, Any], path: Path) -> EvaluationResults:
    """Return the results in the content of an evaluation.json. path: where it is or would be. Raises UserError."""
    figures, settings, facts = (content.get(name) for name in ("figures", "settings", "facts"))
    if not isinstance(figures, dict) or not isinstance(settings, dict) or not isinstance(content.get("protocol"), str):
        raise UserError(f"{path}: is not an evaluation of flowkit (no protocol, settings and figures)")
    asked = settings.get("asked")
    samples = settings.get("samples")
    steps = [table.get("step") for table in (asked, samples) if isinstance(table, dict)]
    return EvaluationResults(
        folder=path.parent,
        protocol=content["protocol"],
        title=str(content.get("title", "")),
        step=next((step for step in steps if isinstance(step, int)), 0),
        facts={str(name): str(text) for name, text in facts.items()} if isinstance(facts, dict) else {},
        notes=tuple(map(str, notes)) if isinstance(notes := content.get("notes"), list) else (),
        settings=settings,
        figures={str(key): _figure(str(key), table) for key, table in figures.items() if isinstance(table, dict)},
        time=path.stat().st_mtime if path.exists() else 0.0,
    )


def best_of(evaluations: Iterable[EvaluationResults]) -> dict[str, Best]:
    """Return the best result of each figure over several evaluations, without those that are informative only.

    Figures of another protocol than the last evaluation's are left out: they measure something else.
    """
    evaluations = list(evaluations)
    best: dict[str, tuple[float, Best]] = {}
    for one in evaluations:
        if one.protocol != evaluations[-1].protocol:
            continue
        for key, figure in one.figures.items():
            badness = None if figure.samples is None else figure.badness(figure.samples.value)
            if badness is not None and (key not in best or badness < best[key][0]):
                best[key] = badness, Best(figure, one.folder.name)
    return {key: found for key, (_, found) in best.items()}


def _figure(key: str, table: dict[str, Any]) -> FigureResult:
    """A figure from its JSON. Results of earlier versions have no unit: percentages are then known by what is good."""
    good = str(table.get("good", ""))
    percent = good.startswith("50 ")
    scale = table.get("scale", 100.0 if percent else 1.0)
    return FigureResult(
        key=key, name=str(table.get("name", key)), good=good, group=str(table.get("group", "")),
        about=str(table.get("about", "")), unit=str(table.get("unit", "%" if percent else "")),
        scale=float(scale) if isinstance(scale, int | float) and scale else 1.0,
        **{column: _interval(table.get(column)) for column in ("samples", "real", "gaussian")},
    )  # fmt: skip


def _interval(table: Any) -> Interval | None:
    if not isinstance(table, dict):
        return None
    value, low, high = (table.get(name) for name in ("value", "low", "high"))
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in (value, low, high)):
        return None
    return Interval(value, low, high)  # pyright: ignore[reportArgumentType]
