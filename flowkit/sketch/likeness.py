"""Whether samples show what was asked for: each is compared with the drawing whose condition it was drawn for.

Retrieval ranks that drawing among others by the features of the sample. Distances compare the sample with it, next to a
drawing of the same class and to the nearest training row by condition. `PROTOCOL` identifies features, metrics and counts:
compare results of one protocol only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flowkit.domain import Tell
from flowkit.metrics.distances import chamfer_pairs
from flowkit.metrics.resampling import Estimate, half_sampling
from flowkit.rng import key
from flowkit.sketch.features import PIECES_GRID, blurred_grid, ink_points
from flowkit.sketch.raster import touched_cells
from flowkit.sketch.rendering import SIZE, ink
from flowkit.sketch.svg_write import STROKE_WIDTH

PROTOCOL = "likeness-1"
CANDIDATES = 100  # drawings among which the true one is ranked, itself included
TOP = (1, 5)
REACH = 3  # cells of the 64 x 64 grid that ink is widened by, for the overlap
EQUAL = 1e-5  # distances that differ by less, relative to the length of the features, are ties
SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales
SSIM_WINDOW, SSIM_SIGMA, SSIM_K = 11, 1.5, (0.01, 0.03)
RETRIEVAL = (*(f"top{k}" for k in TOP), "median_rank")
BOUNDS = {
    **dict.fromkeys((*RETRIEVAL[:-1], "overlap", "ms_ssim", "nearer"), (0.0, 1.0)),
    "median_rank": (1.0, np.inf), "chamfer": (0.0, np.inf), "ratio": (0.0, np.inf),
}  # fmt: skip
WAYS = {"samples": "samples", "class": "random drawing of the class", "nearest": "nearest training row by condition"}
_AT_ONCE = 16  # drawings of each column, as pictures in memory

Figures = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Group:
    """Figures on one group of samples.

    retrieval: by features ("ink", and the caller's) and way, the figures "top1", "top5" (fractions) and "median_rank".
    distances: by way, the means "chamfer" (canvas units), "overlap" and "ms_ssim" (both 1 for equal drawings).
    against: by baseline, "ratio", the samples' mean Chamfer distance divided by the baseline's, and "nearer", the fraction of
    samples that are nearer to the true drawing than the baseline is.
    """

    samples: int
    drawings: int  # different ones; several samples of one drawing are not independent
    retrieval: dict[str, Figures]
    distances: Figures
    against: Figures


@dataclass(frozen=True)
class Likeness:
    """Results by group: "all", then the caller's groups."""

    candidates: int
    borrowed: int  # samples whose class has no training rows, compared with a held-out drawing of the class instead
    unlike: int  # samples without another drawing of their class, or without a class: compared with any training row
    groups: dict[str, Group]
    seed: int = 0

    @property
    def chance(self) -> dict[str, float]:
        """The retrieval figures of samples that have nothing to do with what was asked for."""
        return {**{f"top{k}": min(k / self.candidates, 1.0) for k in TOP}, "median_rank": (self.candidates + 1) / 2}

    @property
    def words(self) -> str:
        chance = self.chance
        parts = [
            f"the true drawing among {self.candidates} held-out ones (by chance: first {chance['top1']:.0%}, in the first five "
            f"{chance['top5']:.0%}, median rank {chance['median_rank']:g}), and distances to it: Chamfer, overlap of ink, MS-SSIM"
        ]
        for name, group in self.groups.items():
            said = []
            for by, ways in group.retrieval.items():
                one = ways["samples"]
                said.append(
                    f"by {by} first {_percent(one['top1'])}, in the first five {_percent(one['top5'])}, "
                    f"median rank {one['median_rank'].value:g}"
                )
            for way, one in group.distances.items():
                said.append(
                    f"{WAYS[way]} {one['chamfer'].value:.3f}, {100 * one['overlap'].value:.0f}%, {one['ms_ssim'].value:.3f}"
                )
            several = "" if group.samples == group.drawings else f" of {group.drawings:,} drawings"
            parts.append(f"{name} ({group.samples:,} samples{several}): {'; '.join(said)}")
        if self.borrowed:
            parts.append(
                f"{self.borrowed:,} samples of classes without training rows are compared with a held-out drawing instead"
            )
        if self.unlike:
            parts.append(
                f"{self.unlike:,} samples without another drawing of their class are compared with any training row"
            )
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "candidates": self.candidates,
            "seed": self.seed,
            "chance": self.chance,
            "borrowed": self.borrowed,
            "unlike": self.unlike,
            "groups": {name: _plain(vars(group)) for name, group in self.groups.items()},
        }


def likeness(
    samples: np.ndarray,
    pool: np.ndarray,
    place: np.ndarray,
    train: np.ndarray,
    *,
    nearest: np.ndarray | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
    features: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Likeness:
    """Compare `samples` (M, S, 8 or 10) with the drawings that they were asked to show, `pool[place]`.

    pool: held-out drawings (K, S, 8 or 10), K >= 2, from which the candidates are drawn too. place: (M,) rows of the pool;
    several samples of one drawing may be given, and are resampled together. train: training drawings (N, S, 8 or 10), N >= 1.
    nearest: (M,) row of `train` whose condition is nearest to the sample's; None leaves the column out. labels: of the pool
    (K,) and of `train` (N,), for the random drawing of the class; without them it is any training row. groups: by name, which
    samples (M,) bool also get figures of their own, such as "seen" and "unseen"; empty ones are left out. features: more
    rankings by name, such as those of an image encoder: features (M, D) of the samples and (K, D) of the pool; ink is always
    ranked. seed: of the candidates and of the random drawings, which are keyed by `place`.

    Raises ValueError if shapes do not fit or features are not finite.
    """
    place, tell = np.asarray(place), tell or (lambda *_: None)
    groups = {name: np.asarray(some, bool) for name, some in (groups or {}).items()}
    _check(samples, pool, place, train, nearest, labels, groups, features or {})
    tell("ranking the drawings asked for", 0, 2)
    like, borrowed, unlike = _of_the_class(pool, place, train, labels, seed)
    columns = {"samples": samples, "class": like}
    if nearest is not None:
        columns["nearest"] = np.asarray(train[nearest])
    others = candidates(len(pool), place, seed)
    grid = blurred_grid(pool)
    ranks = {"ink": {way: ranked(blurred_grid(x), grid, place, others) for way, x in columns.items()}}
    for name, (ours, theirs) in (features or {}).items():
        ranks[name] = {"samples": ranked(ours, theirs, place, others)}
    tell("measuring distances to the drawings asked for", 1, 2)
    truth = Inked(np.asarray(pool[place]))
    values = {way: distances(Inked(x), truth) for way, x in columns.items()}
    for way, similar in zip(columns, _similarities(list(columns.values()), truth.x), strict=True):
        values[way]["ms_ssim"] = similar
    chosen = {"all": np.ones(len(place), bool), **{name: some for name, some in groups.items() if some.any()}}
    found = {name: _group(np.flatnonzero(some), place, ranks, values) for name, some in chosen.items()}
    tell("measuring distances to the drawings asked for", 2, 2)
    return Likeness(others.shape[1] + 1, borrowed, unlike, found, seed)


# ---- retrieval ----
def candidates(pool: int, place: np.ndarray, seed: int, count: int = CANDIDATES) -> np.ndarray:
    """Return the other drawings (M, count - 1) that each of `place` (M,) is ranked among, by key, without replacement.

    Fewer if the pool is smaller. Those of one drawing are independent of which others were asked for.
    """
    few = min(count, pool) - 1
    found = np.empty((len(place), few), np.int64)
    for at, row in enumerate(place):
        rng = np.random.Generator(np.random.Philox(key(seed, "candidates", int(row))))
        found[at] = rng.choice(pool - 1, few, replace=False, shuffle=False)
    return found + (found >= place[:, None])


def ranked(ours: np.ndarray, pool: np.ndarray, place: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many candidates are nearer than the true one, and how many are as near, by features: (M, 2) int.

    ours: features (M, D) of the samples; pool: (K, D) of the pool. The distance is Euclidean.
    """
    found = np.empty((len(place), 2), np.int64)
    for at, (one, row) in enumerate(zip(ours, place, strict=True)):
        those = pool[np.append(row, others[at])].astype(np.float64)
        apart = np.linalg.norm(those - one, axis=1)
        equal = EQUAL * max(float(np.linalg.norm(those[0])), float(np.linalg.norm(one)))
        found[at] = (apart[1:] < apart[0] - equal).sum(), (np.abs(apart[1:] - apart[0]) <= equal).sum()
    return found


def _retrieval(ranks: np.ndarray) -> list[float]:
    """Return the figures of `ranked`: the fractions of TOP, and the median rank. Ties are broken at random, on average."""
    nearer, equal = ranks.T
    return [
        *(float(((k - nearer) / (1 + equal)).clip(0, 1).mean()) for k in TOP),
        float(np.median(1 + nearer + equal / 2)),
    ]


# ---- distances ----
class Inked:
    """Drawings (N, S, 8 or 10), with what distances need, computed once."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    @cached_property
    def points(self) -> np.ndarray:
        return ink_points(self.x)

    @cached_property
    def widened(self) -> np.ndarray:
        """(N, 64, 64) bool: the cells within REACH of ink."""
        from scipy.ndimage import distance_transform_edt

        cells = touched_cells(self.x, PIECES_GRID)
        return np.stack([(np.asarray(distance_transform_edt(~some)) <= REACH) & some.any() for some in cells])


def distances(made: Inked, truth: Inked) -> dict[str, np.ndarray]:
    """Return the distances (N,) of each drawing to the one in the same place.

    "chamfer": the square root of the Chamfer distance of 128 points along the ink, in canvas units. "overlap": intersection
    over union of the ink, widened by 3 cells of a 64 x 64 grid.
    """
    chamfer = [np.sqrt(chamfer_pairs(p, q[None])[0]) for p, q in zip(made.points, truth.points, strict=True)]
    both, either = made.widened & truth.widened, made.widened | truth.widened
    return {
        "chamfer": np.array(chamfer),
        "overlap": both.sum(axis=(1, 2)) / np.maximum(either.sum(axis=(1, 2)), 1),
    }


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the multi-scale structural similarity (Wang et al., 2003) of pictures a and b (..., H, W), from 0 to 1 in gray.

    Leading axes are broadcast. Five scales with the authors' weights, windows of 11 x 11 within the picture, pixels averaged
    2 x 2 between scales, where an odd last row or column is left out. A negative mean of a scale counts as 0. Raises ValueError
    if a side is shorter than 161 pixels.
    """
    least = (SSIM_WINDOW - 1) * 2 ** (len(SSIM_WEIGHTS) - 1) + 1
    if a.shape[-2:] != b.shape[-2:] or min(a.shape[-2:]) < least:
        raise ValueError(
            f"pictures of {a.shape[-2:]} and {b.shape[-2:]}; expected equal sizes of at least {least} pixels"
        )
    (c1, c2), found = (k * k for k in SSIM_K), np.ones(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    for scale, weight in enumerate(SSIM_WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
        rows, columns = _windows(a.shape[-2]), _windows(a.shape[-1])
        blur = lambda x, rows=rows, columns=columns: rows @ x @ columns.T  # noqa: E731
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        similar = (2 * both + c2) / (var_a + var_b + c2)
        if scale == len(SSIM_WEIGHTS) - 1:
            similar = similar * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        found = found * np.maximum(similar.mean(axis=(-2, -1), dtype=np.float64), 0) ** weight
    return found


def _windows(size: int) -> np.ndarray:
    """Return the Gaussian windows that lie within `size` pixels, as rows of a matrix (size - 10, size) float32."""
    window = np.exp(-0.5 * ((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2)
    matrix = np.zeros((size - SSIM_WINDOW + 1, size), np.float32)
    for row in range(len(matrix)):
        matrix[row, row : row + SSIM_WINDOW] = window / window.sum()
    return matrix


def _halved(x: np.ndarray) -> np.ndarray:
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def _similarities(columns: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Return the MS-SSIM (C, N) of each column of drawings to the true ones, black on white at 224 x 224 pixels."""
    pictures = lambda some: 1 - np.stack([ink(x, SIZE, STROKE_WIDTH) for x in some])  # noqa: E731
    found = np.empty((len(columns), len(truth)))
    for first in range(0, len(truth), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        found[:, rows] = ms_ssim(np.stack([pictures(column[rows]) for column in columns]), pictures(truth[rows]))
    return found


# ---- baselines and intervals ----
def _of_the_class(
    pool: np.ndarray, place: np.ndarray, train: np.ndarray, labels: tuple[np.ndarray, np.ndarray] | None, seed: int
) -> tuple[np.ndarray, int, int]:
    """Return a random drawing of the class for each sample: of the training rows, else of the others in the pool, else any.

    Also returns how many are from the pool, and how many are any training row.
    """
    theirs, ours = (np.full(len(pool), -1), np.full(len(train), -2)) if labels is None else labels
    found, borrowed, unlike = [], 0, 0
    for row in place:
        rng = np.random.Generator(np.random.Philox(key(seed, "same class", int(row))))
        rows, source = np.flatnonzero(ours == theirs[row]), train
        if not len(rows) and labels is not None:
            rows, source = np.flatnonzero((theirs == theirs[row]) & (np.arange(len(theirs)) != row)), pool
            borrowed += len(rows) > 0
        if not len(rows):
            rows, source = np.arange(len(train)), train
            unlike += 1
        found.append(source[rows[rng.integers(len(rows))]])
    return np.stack(found), borrowed, unlike


def _group(
    rows: np.ndarray,
    place: np.ndarray,
    ranks: dict[str, dict[str, np.ndarray]],
    values: dict[str, dict[str, np.ndarray]],
) -> Group:
    own = [rows[place[rows] == drawing] for drawing in np.unique(place[rows])]  # samples by drawing, resampled together

    def estimated(statistic: Callable[[np.ndarray], Any], names: Iterable[str]) -> dict[str, Estimate]:
        found = half_sampling(lambda some: statistic(np.concatenate([own[one] for one in some])), (len(own),))
        return {name: _clipped(one, *BOUNDS[name]) for name, one in zip(names, found, strict=True)}

    means = lambda found: estimated(  # noqa: E731
        lambda some: [float(one[some].mean()) for one in found.values()], found
    )
    ours, against = values["samples"]["chamfer"], {}
    for way in [way for way in values if way != "samples"]:
        theirs = values[way]["chamfer"]
        nearer = (ours < theirs) + 0.5 * (ours == theirs)
        figures = lambda some, theirs=theirs, nearer=nearer: (  # noqa: E731
            float(ours[some].mean() / max(theirs[some].mean(), 1e-9)),
            float(nearer[some].mean()),
        )
        against[way] = estimated(figures, ("ratio", "nearer"))
    retrieval = {
        by: {
            way: estimated(lambda some, found=found: _retrieval(found[some]), RETRIEVAL) for way, found in ways.items()
        }
        for by, ways in ranks.items()
    }
    return Group(len(rows), len(own), retrieval, {way: means(found) for way, found in values.items()}, against)


def _clipped(estimate: Estimate, low: float, high: float) -> Estimate:
    clip = lambda value: float(np.clip(value, low, high))  # noqa: E731
    return Estimate(estimate.value, clip(estimate.low), clip(estimate.high))


def _check(
    samples: np.ndarray,
    pool: np.ndarray,
    place: np.ndarray,
    train: np.ndarray,
    nearest: np.ndarray | None,
    labels: tuple[np.ndarray, np.ndarray] | None,
    groups: Mapping[str, np.ndarray],
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    count = len(samples)
    if not count or len(pool) < 2 or not len(train):
        raise ValueError(
            f"{count} samples, {len(pool)} candidates and {len(train)} training rows; expected at least 1, 2 and 1"
        )
    lengths = {"place": place, "nearest": nearest, **groups}
    for name, found in lengths.items():
        if found is not None and np.shape(found) != (count,):
            raise ValueError(f"{name}: shape {np.shape(found)}; expected ({count},), one per sample")
    if pool.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"rows of shapes {pool.shape[1:]} in the pool and {train.shape[1:]} in training; expected equal ones"
        )
    for name, found, most in (("place", place, len(pool)), ("nearest", nearest, len(train))):
        if found is not None and not ((found >= 0) & (found < most)).all():
            raise ValueError(f"{name}: rows must be from 0 to {most - 1}")
    if labels is not None and tuple(map(len, labels)) != (len(pool), len(train)):
        raise ValueError(
            f"labels: of {len(labels[0])} and {len(labels[1])} rows; expected {len(pool)} and {len(train)}"
        )
    for name, (ours, theirs) in features.items():
        if ours.ndim != 2 or ours.shape != (count, theirs.shape[-1]) or len(theirs) != len(pool):
            raise ValueError(
                f"features {name}: shapes {ours.shape} and {theirs.shape}; expected ({count}, D) and ({len(pool)}, D)"
            )
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise ValueError(f"features {name}: not finite")


def _plain(found: Any) -> Any:
    if isinstance(found, Estimate):
        return vars(found)
    return {name: _plain(one) for name, one in found.items()} if isinstance(found, dict) else found


def _percent(one: Estimate) -> str:
    return f"{100 * one.value:.0f}% ({100 * one.low:.0f}-{100 * one.high:.0f})"
