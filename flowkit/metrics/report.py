"""The results of an evaluation as plain data: shown by the UI, printed by `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from flowkit.html import ShownAsHtml
from flowkit.metrics.resampling import Estimate

COLUMNS = ("samples", "real", "gaussian", "noise")


@dataclass(frozen=True)
class Figure:
    """One metric, measured on samples, on real rows, on draws from a Gaussian per class, and optionally on noise."""

    key: str  # "one_nn_chamfer"; stable across versions
    name: str  # "1-NN accuracy"
    about: str  # what it is computed on and how, in one sentence
    group: str  # heading in the table
    good: str  # which direction is better: "50 is perfect", "lower is better", "like real"
    samples: Estimate | None
    real: Estimate | None
    gaussian: Estimate | None
    unit: str = ""  # as shown: "%", "10⁻³"
    scale: float = 1.0  # the figure is shown multiplied by this
    noise: Estimate | None = None  # of isotropic draws; None for most domains


@dataclass(frozen=True)
class Evaluation(ShownAsHtml):
    protocol: str  # identifies features, metrics and counts; compare results of one protocol only
    title: str  # "runs/kanji at step 5,000"
    facts: dict[str, str]  # which rows and samples were used, one line each
    figures: tuple[Figure, ...]
    legend: str = ""  # what the groups of figures measure
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # machine-readable form of the facts
    files: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The COLUMNS that have figures; the first three are always shown."""
        return COLUMNS if any(figure.noise is not None for figure in self.figures) else COLUMNS[:3]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict with figures by key, unscaled (fractions from 0 to 1). Shown times `scale`, in `unit`."""
        figures = {
            figure.key: {
                "name": figure.name,
                "about": figure.about,
                "good": figure.good,
                "group": figure.group,
                "unit": figure.unit,
                "scale": figure.scale,
                **{column: _estimate(getattr(figure, column)) for column in self.columns},
            }
            for figure in self.figures
        }
        return {
            "protocol": self.protocol,
            "title": self.title,
            "settings": self.settings,
            "facts": self.facts,
            "notes": list(self.notes),
            "figures": figures,
            "files": list(self.files),
        }


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else asdict(estimate)
