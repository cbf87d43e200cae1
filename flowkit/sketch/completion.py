"""How well a model completes drawings: real ones are begun, completed, and compared with what they really were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.data.dataset import Dataset
from flowkit.domain import Given
from flowkit.flow.given import RESAMPLE
from flowkit.metrics.distances import chamfer_pairs
from flowkit.metrics.moments import frechet
from flowkit.metrics.resampling import Estimate, half_sampling
from flowkit.progress import Progress
from flowkit.sketch.evaluation import principal_components
from flowkit.sketch.features import blurred_grid, ink_points
from flowkit.sketch.likeness import Inked, distances
from flowkit.sketch.strokes import EXISTS, exists, tidy

if TYPE_CHECKING:
    from flowkit.sampling.model import SamplingModel

SHARES = (0.1, 0.5)  # of a drawing's cubics that are given


@dataclass(frozen=True)
class Completed:
    """Figures by share and by way: "trained", "without training", and "nearest", the best fitting training drawing."""

    rows: int
    figures: dict[str, dict[str, dict[str, Estimate | float]]] = field(default_factory=dict)

    @property
    def words(self) -> str:
        parts = []
        for share, ways in self.figures.items():
            said = []
            for way, found in ways.items():
                chamfer, overlap = found["chamfer"], found["overlap"]
                assert isinstance(chamfer, Estimate) and isinstance(overlap, Estimate)
                said.append(f"{way} {chamfer.value:.3f}, {100 * overlap.value:.0f}%, {found['frechet']:.2f}")
            parts.append(f"{share} given: {'; '.join(said)}")
        return (
            f"{self.rows:,} real drawings begun and completed; Chamfer distance to the real one, overlap of ink, Fréchet "
            f"distance of ink. {'. '.join(parts)}"
        )

    def to_json(self) -> dict[str, Any]:
        plain = lambda one: vars(one) if isinstance(one, Estimate) else one  # noqa: E731
        return {
            "rows": self.rows,
            "given": {
                share: {way: {name: plain(one) for name, one in found.items()} for way, found in ways.items()}
                for share, ways in self.figures.items()
            },
        }


def measure_completion(
    model: SamplingModel, data: Dataset, rows: np.ndarray, *, seed: int = 0, progress: Progress | None = None, **how: Any
) -> Completed:  # fmt: skip
    """Begin `rows` of `data`, let the model complete them, and compare with the whole drawings.

    Of every drawing, the first tenth and the first half of its cubics are given, at least one and not all. A model trained with
    `flow.given` is measured in its own way and without training. The baseline continues with the rest of the training drawing
    whose beginning is nearest to the given one. how: as in `sample`.
    """
    truth, train = np.asarray(data.x[rows]), np.asarray(data.x[data.rows("train")])
    told = model.given_with(data, rows)
    ways: dict[str, int | None] = {"trained": None} if model.flow.completes else {}
    ways["without training"] = RESAMPLE
    done, figures = 0, {}
    total = len(SHARES) * len(ways) * len(rows)
    for share in SHARES:
        count = _counted(exists(truth).sum(axis=1), share)
        tokens = np.arange(truth.shape[1]) < count[:, None]
        found = {}
        for way, resample in ways.items():
            said: Callable[[int, int], object] | None = None
            if progress is not None:
                said = lambda now, _, done=done: progress(done + now, total)  # noqa: E731
            made = model.sample(
                len(rows),
                given=Given(truth, tokens),
                resample=resample,
                seed=seed,
                progress=said,
                conditions=told,
                **how,
            )
            found[way] = _compared(made.x, truth)
            done += len(rows)
        found["nearest"] = _compared(_nearest(truth, count, train, share), truth)
        figures[f"{round(100 * share)}%"] = found
    return Completed(len(rows), figures)


def _counted(cubics: np.ndarray, share: float) -> np.ndarray:
    """How many of these numbers of cubics are given (N,)."""
    return np.clip(np.round(share * cubics), 1, np.maximum(cubics - 1, 1)).astype(int)


def _nearest(truth: np.ndarray, count: np.ndarray, train: np.ndarray, share: float) -> np.ndarray:
    """Return the given beginnings, each with the rest of the training drawing whose own beginning is nearest to it."""
    own = _counted(exists(train).sum(axis=1), share)
    begun, theirs = (ink_points(_cut(x, 0, n), 32) for x, n in ((truth, count), (train, own)))
    made = truth.copy()
    for row, (points, given) in enumerate(zip(begun, count, strict=True)):
        best = int(chamfer_pairs(points, theirs).argmin())
        rest = _cut(train[best : best + 1], int(own[best]), train.shape[1])[0]
        rest = rest[exists(rest)][: truth.shape[1] - given, : truth.shape[2]]
        made[row, given:] = 0
        if truth.shape[2] > EXISTS:
            made[row, given:, EXISTS:] = -1
        made[row, given : given + len(rest)] = rest
    return tidy(made) if truth.shape[2] > EXISTS else made


def _cut(x: np.ndarray, first: int, stop: int | np.ndarray) -> np.ndarray:
    """Return drawings (N, S, 8 or 10) as rows (N, S, 10) in which only the cubics from `first` to `stop` exist."""
    place = np.arange(x.shape[1])
    signs = x[..., EXISTS:] if x.shape[2] > EXISTS else np.tile(np.array([1, -1], np.float32), (*x.shape[:2], 1))
    found = np.concatenate([x[..., :EXISTS], signs], axis=2)
    found[..., EXISTS] = np.where((place >= first) & (place < np.reshape(stop, (-1, 1))), found[..., EXISTS], -1)
    return found


def _compared(made: np.ndarray, truth: np.ndarray) -> dict[str, Estimate | float]:
    found = distances(Inked(made), Inked(truth))
    center, basis = principal_components(blurred_grid(truth))
    apart = frechet((blurred_grid(truth) - center) @ basis, (blurred_grid(made) - center) @ basis)
    mean = lambda values, most: half_sampling(  # noqa: E731
        lambda some: float(np.mean(values[some])), (len(values),), bounds=(0.0, most)
    )[0]
    return {"chamfer": mean(found["chamfer"], np.inf), "overlap": mean(found["overlap"], 1.0), "frechet": apart}
