"""Metrics of points. `PROTOCOL` identifies metrics and counts: compare results of one protocol only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flowkit.domain import Tell
from flowkit.flow.couplings.assignment import assign
from flowkit.metrics.comparison import Comparison
from flowkit.metrics.distances import euclidean, squared_distances
from flowkit.metrics.neighbors import knn_classify
from flowkit.metrics.report import Figure
from flowkit.metrics.resampling import Estimate, half_sampling

PROTOCOL = "points-1"
NEIGHBORS = 5
REPEATS = 20  # per interval; each solves an assignment problem
LEGEND = (
    "Transport: exact assignment to equally many reference points, in data units. Perfect samples score like 'real'."
)

Column = dict[str, Estimate | None]


class PointsEvaluator:
    protocol = PROTOCOL
    legend = LEGEND

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.notes: tuple[str, ...] = (
            () if comparison.data.x.shape[1] == 2 else ("no scatter plot: the points are not 2-D",)
        )

    def figures(self, tell: Tell) -> list[Figure]:
        """Compute all metrics for samples, real rows and Gaussian draws. `tell` receives progress."""
        data, sides = self.comparison.data, self.comparison.sides
        columns: dict[str, Column] = {}
        for name, x in (
            ("samples", self.comparison.samples.x),
            ("real", data.x[sides.real]),
            ("gaussian", self.comparison.gaussian),
        ):
            what = {"samples": "samples", "real": "real points", "gaussian": "Gaussian draws"}[name]
            tell(f"measuring {what}", len(columns), 3)
            columns[name] = self._column(np.asarray(x, np.float64))
        return [
            Figure(
                key, **text, samples=columns["samples"][key], real=columns["real"][key], gaussian=columns["gaussian"][key]
            )
            for key, text in FIGURES.items()
            if self.comparison.labeled or key not in BY_CLASS
        ]  # fmt: skip

    def write(self, out: Path) -> list[Path]:
        """Write `scatter.png`, samples over reference, if the points are 2-D."""
        from flowkit.points.scatter import write_scatter

        comparison = self.comparison
        if comparison.data.x.shape[1] != 2:
            return []
        samples, reference = comparison.samples, comparison.data.x[comparison.sides.reference]
        path = write_scatter(
            out / "scatter.png", samples.x, reference, class_label=samples.class_label, class_names=samples.class_names
        )
        return [path]

    def _column(self, x: np.ndarray) -> Column:
        """Compare x (N, D) with the reference, whose row i has the class of row i of x."""
        data, rows = self.comparison.data, self.comparison.sides.reference
        reference = np.asarray(data.x[rows], np.float64)
        cost = squared_distances(reference, x)
        apart = euclidean(reference, reference), np.sqrt(cost), euclidean(x, x)
        sizes = (len(rows), len(x))
        column: Column = {
            "w2": _estimate(lambda ref, oth: _transport(cost[ref][:, oth]), sizes),
            "energy": half_sampling(lambda ref, oth: _energy(*apart, ref, oth), sizes, smooth=True)[0],
        }
        if self.comparison.labeled:
            labels = np.asarray(data.class_label)[rows]
            strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            column["w2_class"] = _estimate(
                lambda *some: _by_class(cost, strata, some), [len(own) for own in strata] * 2
            )
            sides = self.comparison.sides
            voting = np.setdiff1d(sides.train, np.concatenate([sides.real, sides.reference]))
            distances = euclidean(x, np.asarray(data.x[voting], np.float64))
            voted = knn_classify(distances, np.asarray(data.class_label)[voting], NEIGHBORS)
            right = voted == labels
            column["class_fidelity"] = half_sampling(
                lambda some: float(right[some].mean()), (len(right),), bounds=(0.0, 1.0)
            )[0]  # fmt: skip
        return column


def _estimate(statistic, sizes) -> Estimate:
    return half_sampling(statistic, sizes, repeats=REPEATS, bounds=(0.0, np.inf))[0]


def _transport(cost: np.ndarray) -> float:
    return float(np.sqrt(cost[np.arange(len(cost)), assign(cost)].mean()))


def _by_class(cost: np.ndarray, strata: list[np.ndarray], some: tuple[np.ndarray, ...]) -> float:
    """Root of the mean squared distance within classes, weighted by their rows. some: rows of each class, for both sides."""
    total, count = 0.0, 0
    for own, ref, oth in zip(strata, some[: len(strata)], some[len(strata) :], strict=True):
        part = cost[own[ref]][:, own[oth]]
        total, count = total + len(part) * _transport(part) ** 2, count + len(part)
    return float(np.sqrt(total / count))


def _energy(within: np.ndarray, between: np.ndarray, own: np.ndarray, ref: np.ndarray, oth: np.ndarray) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| over distinct rows. Unbiased, so it can be negative (Szekely, 2013)."""
    apart = lambda matrix, rows: matrix[rows][:, rows].sum() / (len(rows) * max(len(rows) - 1, 1))  # noqa: E731
    return float(2 * between[ref][:, oth].mean() - apart(within, ref) - apart(own, oth))


BY_CLASS = ("w2_class", "class_fidelity")
FIGURES: dict[str, dict[str, Any]] = {
    "w2": {
        "group": "Transport", "name": "2-Wasserstein", "good": "lower is better",
        "about": "root mean squared distance under the optimal assignment of samples to reference points",
    },
    "w2_class": {
        "group": "Transport", "name": "2-Wasserstein by class", "good": "lower is better",
        "about": "as above, with each sample assigned to a reference point of its own class",
    },
    "energy": {
        "group": "Transport", "name": "energy distance", "good": "0 is perfect", "unit": "10⁻³", "scale": 1e3,
        "about": "2 E|X - Y| - E|X - X'| - E|Y - Y'| with Euclidean distances; unbiased",
    },
    "class_fidelity": {
        "group": "Class", "name": "named by 5-NN", "good": "like real", "unit": "%", "scale": 100.0,
        "about": "fraction assigned to the requested class by the 5 nearest training points",
    },
}  # fmt: skip
