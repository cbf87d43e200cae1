"""Metrics of sketches. `PROTOCOL` identifies features, metrics and counts: compare results of one protocol only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.domain import Tell
from flowkit.metrics.comparison import Comparison
from flowkit.metrics.distances import PointClouds, chamfer, chamfer_pairs, euclidean
from flowkit.metrics.moments import frechet, mmd2, rbf_kernel
from flowkit.metrics.neighbors import knn_classify, matching, one_nn_accuracy, prdc
from flowkit.metrics.report import Figure
from flowkit.metrics.resampling import Estimate, half_sampling
from flowkit.sketch.features import COUNTS, blurred_grid, class_grid, counts, ink_points, stroke_features
from flowkit.sketch.strokes import EXISTS, tidy
from flowkit.sketch.validity import degenerate, duplicate, on_canvas

PROTOCOL = "sketch-2"
NEIGHBORS = 5
NEW_ROWS = 1000  # training rows to use if no rows are held out
LEGEND = (
    "Shape: Chamfer distance of 128 points along the ink. Strokes: mean and standard deviation of 11 stroke statistics. "
    "Ink: blurred 28 x 28 grid, 5 neighbors. Class: 14 x 14 grid. A memorization ratio well below 1 means that training "
    "sketches were copied."
)

Column = dict[str, Estimate | None]
COMPONENTS = 40  # principal components of the ink grids, for the Fréchet distance
CANDIDATES = 32  # candidates from the blurred ink grid, among which the Chamfer distance decides
_AT_ONCE = 128


@dataclass
class _Described:
    """Sketches (N, S, 8) and their features, each computed once."""

    x: np.ndarray

    @cached_property
    def clouds(self) -> PointClouds:
        return PointClouds(ink_points(self.x))

    @cached_property
    def strokes(self) -> np.ndarray:
        return stroke_features(self.x)

    @cached_property
    def grid(self) -> np.ndarray:
        return blurred_grid(self.x)

    @cached_property
    def counts(self) -> np.ndarray:
        return counts(self.x)


class SketchEvaluator:
    """Measures one comparison. Raises nothing: `Comparison` holds comparable rows only."""

    protocol = PROTOCOL
    legend = LEGEND
    notes: tuple[str, ...] = ()

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        data, sides = comparison.data, comparison.sides
        gaussian = comparison.gaussian
        self.gaussian = tidy(gaussian) if gaussian.shape[-1] > EXISTS else gaussian
        self._nearest = NearestSketch(data.x[sides.train])
        # All real rows vote on classes. A memorization ratio of 1 is the median distance of held-out rows to training rows.
        self._voters = np.unique(np.concatenate([sides.train, sides.held_out, sides.reference, sides.real]))
        if len(sides.held_out):
            self._usual, _ = self._nearest(data.x[sides.held_out])
        else:
            own = np.arange(min(len(sides.train), NEW_ROWS))
            self._usual, _ = self._nearest(data.x[sides.train[own]], own)

    def figures(self, tell: Tell) -> list[Figure]:
        """Compute all metrics for samples, real rows and Gaussian draws. `tell` receives progress."""
        data, sides = self.comparison.data, self.comparison.sides
        reference = _Described(np.asarray(data.x[sides.reference]))
        columns: dict[str, Column] = {}
        for name, x in (
            ("samples", self.comparison.samples.x),
            ("real", data.x[sides.real]),
            ("gaussian", self.gaussian),
        ):
            what = {"samples": "samples", "real": "real sketches", "gaussian": "Gaussian draws"}[name]
            tell(f"measuring {what}", len(columns), 3)
            columns[name] = {
                **_distribution(reference, _Described(np.asarray(x))),
                "class_fidelity": self._fidelity(name, x) if self.comparison.labeled else None,
                "memorisation": self._memorization(self._usual if name == "real" else self._distances(name)[0]),
                **_validity(np.asarray(x)),
            }
        return [
            Figure(
                key,
                **text,
                samples=columns["samples"][key],
                real=columns["real"][key],
                gaussian=columns["gaussian"][key],
            )
            for key, text in FIGURES.items()
        ]

    def write(self, out: Path) -> list[Path]:
        """Write `nearest.png`: samples next to their nearest training sketch; first some of every class, then the nearest."""
        from flowkit.sketch.raster import contact_sheet

        data, samples = self.comparison.data, self.comparison.samples
        distance, nearest = self._distances("samples")
        chosen = spread(samples.class_label, len(samples), 20)
        closest = [row for row in np.argsort(distance, kind="stable").tolist() if row not in set(chosen)][:8]
        shown, titles = [], []
        for row in [*chosen, *closest]:
            twin = int(self.comparison.sides.train[nearest[row]])
            shown += [samples.x[row], data.x[twin]]
            titles.append(f"sample: {_class_name(samples.class_names, samples.class_label, row)}")
            titles.append(f"nearest: {_class_name(data.class_names, data.class_label, twin)}, {distance[row]:.3f}")
        contact_sheet(np.stack(shown), titles, out / "nearest.png", columns=8)
        return [out / "nearest.png"]

    @cached_property
    def _voting(self) -> np.ndarray:
        return class_grid(self.comparison.data.x[self._voters])

    @cache  # noqa: B019 - an evaluator lives as long as its evaluation
    def _distances(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self._nearest(self.comparison.samples.x if name == "samples" else self.gaussian)

    def _memorization(self, distances: np.ndarray) -> Estimate:
        ratio = lambda a, b: float(np.median(distances[a]) / max(np.median(self._usual[b]), 1e-9))  # noqa: E731
        return half_sampling(ratio, (len(distances), len(self._usual)), bounds=(0.0, np.inf))[0]

    def _fidelity(self, name: str, x: np.ndarray) -> Estimate:
        data, sides = self.comparison.data, self.comparison.sides
        labels = np.asarray(data.class_label)
        rows = sides.reference
        if name == "real":  # the rows of both sides, each without itself
            rows = np.concatenate([sides.reference, sides.real])
            x = data.x[rows]
        distances = euclidean(class_grid(x), self._voting)
        if name == "real":
            distances[np.arange(len(rows)), np.searchsorted(self._voters, rows)] = np.inf
        right = knn_classify(distances, labels[self._voters], NEIGHBORS) == labels[rows]
        return half_sampling(lambda some: float(right[some].mean()), (len(right),), bounds=(0.0, 1.0))[0]


def _distribution(reference: _Described, other: _Described) -> Column:
    """Compare two sets of equal size. other: samples, real sketches or Gaussian draws."""
    sizes = (len(reference.x), len(other.x))
    clouds = [chamfer(a, b) for a, b in _three(reference.clouds, other.clouds)]
    grids = [euclidean(a, b) for a, b in _three(reference.grid, other.grid)]
    apart = [euclidean(a, b) for a, b in _three(reference.strokes, other.strokes)]
    bandwidth = float(np.median(apart[0][np.triu_indices(sizes[0], 1)]))  # of the reference: the same for all columns
    kernels = [rbf_kernel(distances, max(bandwidth, 1e-12)) for distances in apart]

    def shapes(ref: np.ndarray, oth: np.ndarray) -> tuple[float, ...]:
        within, between, own = _submatrices(clouds, ref, oth)
        return (one_nn_accuracy(within, between, own), *matching(between.T))

    def strokes(ref: np.ndarray, oth: np.ndarray) -> tuple[float, float]:
        return frechet(reference.strokes[ref], other.strokes[oth]), mmd2(*_submatrices(kernels, ref, oth))

    center, basis = principal_components(reference.grid)
    inks = [(grid - center) @ basis for grid in (reference.grid, other.grid)]

    def inked(ref: np.ndarray, oth: np.ndarray) -> float:
        return frechet(inks[0][ref], inks[1][oth])

    def manifolds(ref: np.ndarray, oth: np.ndarray) -> tuple[float, ...]:
        return prdc(*_submatrices(grids, ref, oth), k=NEIGHBORS)

    keys = ("one_nn_chamfer", "coverage_chamfer", "mmd_chamfer", "frechet_strokes", "kernel_mmd_strokes",
            "frechet_ink", "precision_ink", "recall_ink", "density_ink", "coverage_ink")  # fmt: skip
    found = [
        *half_sampling(shapes, sizes),
        *half_sampling(strokes, sizes, smooth=True),
        *half_sampling(inked, sizes, smooth=True),
        *half_sampling(manifolds, sizes),
    ]
    column = {key: _clipped(key, estimate) for key, estimate in zip(keys, found, strict=True)}
    return {**column, **_counted(reference, other)}


def principal_components(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of grids (N, D), and their principal components (D, k), scaled so that all variance together is 1."""
    center = grid.mean(axis=0, dtype=np.float64)
    _, scales, components = np.linalg.svd(grid - center, full_matrices=False)
    scales, components = scales[:COMPONENTS], components[:COMPONENTS]
    return center, components.T / np.sqrt((scales**2).sum() / max(len(grid) - 1, 1) or 1.0)


def _counted(reference: _Described, other: _Described) -> dict[str, Estimate]:
    """Means of the counts, and how far their distributions are from the reference's (1-Wasserstein)."""
    from scipy.stats import wasserstein_distance

    sizes = (len(reference.x), len(other.x))

    def distances(ref: np.ndarray, oth: np.ndarray) -> list[float]:
        return [wasserstein_distance(a, b) for a, b in zip(reference.counts[ref].T, other.counts[oth].T, strict=True)]

    means = half_sampling(lambda rows: other.counts[rows].mean(axis=0), (len(other.x),), bounds=(0.0, np.inf))
    apart = half_sampling(distances, sizes, bounds=(0.0, np.inf))
    return {**dict(zip(COUNTS, means, strict=True)),
            **{f"{key}_distance": one for key, one in zip(COUNTS, apart, strict=True)}}  # fmt: skip


def _three(a, b):
    return (a, a), (a, b), (b, b)


def _submatrices(matrices: list[np.ndarray], ref: np.ndarray, oth: np.ndarray) -> tuple[np.ndarray, ...]:
    within, between, own = matrices
    # Rows, then columns: twice as fast as np.ix_ at once, and most of an evaluation is spent here.
    return within[ref][:, ref], between[ref][:, oth], own[oth][:, oth]


def _clipped(key: str, estimate: Estimate) -> Estimate:
    """Clip an interval to the range of its figure. Only the unbiased kernel figure may be below 0."""
    low = -np.inf if key.startswith("kernel") else 0.0
    high = 1.0 if FIGURES[key].get("unit") == "%" else np.inf
    return Estimate(estimate.value, max(estimate.low, low), min(estimate.high, high))


def _validity(x: np.ndarray) -> Column:
    shares = np.stack([on_canvas(x), degenerate(x), duplicate(x)], axis=1)
    estimates = half_sampling(lambda rows: shares[rows].mean(axis=0).tolist(), (len(x),), bounds=(0.0, 1.0))
    return dict(zip(("on_canvas", "degenerate", "duplicate"), estimates, strict=True))


def spread(labels: np.ndarray | None, count: int, wanted: int) -> list[int]:
    """Choose `wanted` rows with all classes equally represented: the first of each class, then the second of each, ..."""
    if labels is None:
        return list(range(min(count, wanted)))
    turn = np.empty(count, np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    chosen = np.lexsort((np.arange(count), labels, turn))[:wanted]
    return sorted(chosen.tolist(), key=lambda row: (int(labels[row]), row))


def _class_name(names: tuple[str, ...], labels: np.ndarray | None, row: int) -> str:
    return str(row) if labels is None else names[labels[row]]


_CHAMFER = "Chamfer distance of 128 points, evenly spaced along the ink"
_STROKES = "mean and standard deviation of 11 statistics over the strokes of a sketch (flowkit.sketch.features.STROKE_STATISTICS)"
_INK = "28 x 28 ink grid, blurred by one cell; balls extend to the 5th nearest neighbor"
_PERCENT, _THOUSANDTHS = {"unit": "%", "scale": 100.0}, {"unit": "10⁻³", "scale": 1e3}
FIGURES: dict[str, dict[str, Any]] = {
    "one_nn_chamfer": {
        "group": "Shape", "name": "1-NN accuracy", "good": "50 is perfect", **_PERCENT,
        "about": f"accuracy of a leave-one-out nearest-neighbor classifier of samples against the reference (with few rows per "
        f"class, real rows score below 50 too, because leaving one out makes its class smaller); {_CHAMFER}",
    },
    "coverage_chamfer": {
        "group": "Shape", "name": "coverage", "good": "higher is better", **_PERCENT,
        "about": f"fraction of reference sketches that are the nearest of some sample; {_CHAMFER}",
    },
    "mmd_chamfer": {
        "group": "Shape", "name": "matching distance", "good": "lower is better", **_THOUSANDTHS,
        "about": f"minimum matching distance: mean distance of reference sketches to the nearest sample; {_CHAMFER}, squared",
    },
    "frechet_strokes": {
        "group": "Strokes", "name": "Fréchet distance", "good": "lower is better", **_THOUSANDTHS,
        "about": f"squared, between the Gaussians with the same moments; {_STROKES}",
    },
    "kernel_mmd_strokes": {
        "group": "Strokes", "name": "RBF-MMD²", "good": "0 is perfect", **_THOUSANDTHS,
        "about": f"unbiased; the bandwidth is the median distance within the reference; {_STROKES}",
    },
    "frechet_ink": {
        "group": "Ink", "name": "Fréchet distance", "good": "lower is better",
        "about": f"squared, between the Gaussians with the same moments, of the reference's first {COMPONENTS} principal "
        f"components, whose variances add up to 1; {_INK.split(';')[0]}",
    },
    "precision_ink": {
        "group": "Ink", "name": "precision", "good": "higher is better", **_PERCENT,
        "about": f"fraction of samples within the ball of a reference sketch; {_INK}",
    },
    "recall_ink": {
        "group": "Ink", "name": "recall", "good": "higher is better", **_PERCENT,
        "about": f"fraction of reference sketches within the ball of a sample; {_INK}",
    },
    "density_ink": {
        "group": "Ink", "name": "density", "good": "1 is perfect",
        "about": f"mean number of reference balls that a sample lies in, divided by 5; {_INK}",
    },
    "coverage_ink": {
        "group": "Ink", "name": "coverage", "good": "higher is better", **_PERCENT,
        "about": f"fraction of reference sketches with a sample in their ball; {_INK}",
    },
    **{
        key: {"group": "Counts", "name": name, "good": "like real", "about": f"mean over the sketches; {about}"}
        for key, (name, about) in COUNTS.items()
    },
    **{
        f"{key}_distance": {
            "group": "Counts", "name": f"{name}, distance", "good": "lower is better",
            "about": f"1-Wasserstein distance to the reference's distribution; {about}",
        }
        for key, (name, about) in COUNTS.items()
    },
    "class_fidelity": {
        "group": "Class", "name": "named by 5-NN", "good": "higher is better", **_PERCENT,
        "about": "fraction assigned to their own class by the 5 nearest real sketches on a 14 x 14 grid of touched cells; a real "
        "sketch does not vote for itself",
    },
    "memorisation": {
        "group": "Copying", "name": "memorization ratio", "good": "1 is perfect",
        "about": "median distance to the nearest training sketch, divided by that of held-out sketches (or of training sketches "
        "to each other if none are held out); well below 1 means copies",
    },
    "on_canvas": {
        "group": "Validity", "name": "strokes on canvas", "good": "like real", **_PERCENT,
        "about": "fraction of strokes whose curve stays within 0.01 of [-1, 1]",
    },
    "degenerate": {
        "group": "Validity", "name": "degenerate strokes", "good": "like real", **_PERCENT,
        "about": "fraction of strokes whose control points all lie within 0.05 of each other",
    },
    "duplicate": {
        "group": "Validity", "name": "duplicate strokes", "good": "like real", **_PERCENT,
        "about": "fraction of strokes whose control points all lie within 0.05 of those of another stroke",
    },
}  # fmt: skip


class NearestSketch:
    """Finds the nearest of the sketches `x`, (N, S, 8), to detect copies. Their features are computed once."""

    def __init__(self, x: np.ndarray) -> None:
        self.grid, self.points = _describe(x)

    def __call__(self, x: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (M,) and indices (M,) of the nearest of the N sketches for x (M, S, 8).

        The distance is the square root of the Chamfer distance of 128 points along the ink, in canvas units. own: (M,)
        index of each row of x among the N sketches; a row is not compared with itself.
        """
        grid, points = _describe(x)
        distance, nearest = np.empty(len(x)), np.empty(len(x), np.int64)
        few = min(CANDIDATES, len(self.grid) - (own is not None))
        for start in range(0, len(x), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(x)))
            apart = euclidean(grid[rows], self.grid)
            if own is not None:
                apart[np.arange(len(rows)), own[rows]] = np.inf
            for row, options in zip(rows, np.argpartition(apart, few - 1, axis=1)[:, :few], strict=True):
                exact = chamfer_pairs(points[row], self.points[options])
                best = int(exact.argmin())
                distance[row], nearest[row] = np.sqrt(exact[best]), options[best]
        return distance, nearest


def _describe(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return blurred_grid(x), ink_points(x).astype(np.float32)
