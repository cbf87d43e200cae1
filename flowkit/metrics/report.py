"""What an evaluation found, as plain data: the UI draws it, `--json` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from flowkit.metrics.resampling import Estimate

COLUMNS = ("samples", "real", "gaussian", "noise")


@dataclass(frozen=True)
class Figure:
    """One metric: of the samples, of real rows in their place, of draws from a Gaussian per class, of noise where asked."""

    key: str  # "one_nn_chamfer": the same from version to version
    name: str  # "1-NN accuracy"
    about: str  # what it is computed on, and how: one sentence
    group: str  # the heading that it stands under
    good: str  # which way is good: "50 is perfect", "lower is better", "like real"
    samples: Estimate | None
    real: Estimate | None
    gaussian: Estimate | None
    unit: str = ""  # of what is shown: "%", "10⁻³"
    scale: float = 1.0  # what is shown is the figure times this
    noise: Estimate | None = None  # of shapeless draws; most domains have no use for them


@dataclass(frozen=True)
class Evaluation:
    protocol: str  # which features, metrics and counts; figures compare under one protocol only
    title: str  # "runs/kanji at step 5,000"
    facts: dict[str, str]  # which rows and samples were used, a line each
    figures: tuple[Figure, ...]
    legend: str = ""  # what the figures' groups look at, in a few words
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # the same for programs
    files: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of COLUMNS that have figures; the first three always stand."""
        return COLUMNS if any(figure.noise is not None for figure in self.figures) else COLUMNS[:3]

    def to_json(self) -> dict[str, Any]:
        """Figures in their own units (shares are 0 to 1), by key."""
        figures = {
            figure.key: {
                "name": figure.name,
                "about": figure.about,
                "good": figure.good,
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
