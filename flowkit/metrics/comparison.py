"""Which rows are compared with which. Every metric gets a real-data baseline with the same number of rows per class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowkit.data.dataset import NULL_NAMES, SPLITS, Dataset
from flowkit.errors import UserError, listing
from flowkit.registry import domain_name
from flowkit.rng import key

DEFAULT_ROWS = 1000  # on each side
LEAST_ROWS = 20  # fewer give meaningless figures
ENOUGH_HELD_OUT = 500  # held-out rows that suffice as the reference
MOST_TRAIN_ROWS = 20_000  # searched for the nearest training row


@dataclass(frozen=True)
class Sides:
    """Row indices of the real data. `reference` and `real` are disjoint and have the same number of rows per class."""

    reference: np.ndarray  # what everything is compared with
    real: np.ndarray  # the real-data baseline: measured like samples
    train: np.ndarray  # rows that the model was trained on
    held_out: np.ndarray  # rows that it was not trained on; may be empty
    split: str  # "validation" | "test" | "all"
    words: dict[str, str]  # descriptions of `reference` and `real`


@dataclass(frozen=True)
class Comparison:
    data: Dataset
    sides: Sides
    samples: Dataset  # as many per class as in the reference; with the class numbers of `data`
    gaussian: np.ndarray  # (N, ...) draws from a Gaussian per class, fitted on the training rows

    @property
    def labeled(self) -> bool:
        return self.data.class_label is not None and self.samples.class_label is not None


def choose_sides(
    data: Dataset, split: str | None = None, limit: int = DEFAULT_ROWS, samples: Dataset | None = None,
    preferred: tuple[str, ...] = ("validation",),
) -> Sides:  # fmt: skip
    """Choose the rows to compare. Deterministic: the same data and arguments give the same rows.

    split: "validation" or "test" uses those rows as the reference and equally many training rows as the baseline. "all"
    divides the training and validation rows in two, for data with few held-out rows. None takes the first of `preferred`
    with 500 rows, or else "all". limit: maximum number of rows per side; classes keep their proportions. samples: existing
    samples, matched by `match_samples`; no side gets more rows of a class than they have. Raises UserError for an unknown
    or empty split and for too few rows.
    """
    if limit < LEAST_ROWS:
        raise UserError(f"num_samples: {limit} rows are too few for meaningful figures; expected at least {LEAST_ROWS}")
    train, validation = data.rows("train"), data.rows("validation")
    split = split or default_split(data, preferred)
    if split not in ("all", "validation", "test"):
        raise UserError(f"split: unknown split {split!r}; expected 'validation', 'test' or 'all'")
    candidates = np.sort(np.concatenate([train, validation])) if split == "all" else data.rows(split)
    if not len(candidates):
        held = ", ".join(f"{name} {len(data.rows(name)):,}" for name in SPLITS)
        raise UserError(f"split: the data has no rows in {split!r} ({held}); name another split, or 'all'")
    by_class = data.class_label is not None and (samples is None or samples.class_label is not None)
    labels = np.asarray(data.class_label) if by_class else np.zeros(len(data), np.int64)
    known = np.isin(labels[candidates], labels[train]).all()
    partners = train if split != "all" and known else None
    counts = _counts(labels, candidates, partners, limit, samples)
    if counts.sum() < LEAST_ROWS:
        of_samples = "" if samples is None else f" and {len(samples):,} samples"
        raise UserError(
            f"too few rows to compare: {len(candidates):,} real rows ({split}){of_samples} leave {counts.sum()} on a "
            f"side after matching classes; at least {LEAST_ROWS} are needed. Use more samples, more data, or --split all"
        )
    reference, real = [], []
    for label, count in enumerate(counts):
        rows = _shuffled(candidates[labels[candidates] == label], "reference", label)
        reference.append(rows[:count])
        if partners is None:
            real.append(rows[count : 2 * count])
        else:
            real.append(_shuffled(partners[labels[partners] == label], "real", label)[:count])
    number, held_out = int(counts.sum()), validation if split == "all" else candidates
    if partners is None:
        pool = {"all": "training and validation" if len(validation) else "real"}.get(split, split)
        words = {
            "reference": f"{number:,} rows, drawn from the {len(candidates):,} {pool} rows",
            "real": f"{number:,} other rows of the same",
        }
    else:
        words = {
            "reference": f"{number:,} of the {len(candidates):,} {split} rows",
            "real": f"{number:,} of the {len(partners):,} training rows",
        }
    return Sides(
        np.concatenate(reference),
        np.concatenate(real),
        _shuffled(train, "train", 0)[:MOST_TRAIN_ROWS],
        _shuffled(held_out, "held out", 0)[:DEFAULT_ROWS],
        split,
        words,
    )


def default_split(data: Dataset, preferred: tuple[str, ...] = ("validation",)) -> str:
    """Return the first of the `preferred` splits with 500 rows, or else "all"."""
    return next((name for name in preferred if len(data.rows(name)) >= ENOUGH_HELD_OUT), "all")


def match_samples(samples: Dataset, data: Dataset) -> Dataset:
    """Return `samples` with the class numbers of `data`, matched by name; without labels if either side has none.

    Raises UserError for another kind or shape of rows, values that are not finite, or a class that the data lacks.
    """
    if samples.kind != data.kind or samples.x.shape[1:] != data.x.shape[1:]:
        kinds = domain_name(samples.kind), domain_name(data.kind)
        raise UserError(
            f"cannot compare: the samples are {kinds[0]} rows of shape {samples.x.shape[1:]}, and the real data {kinds[1]} rows "
            f"of shape {data.x.shape[1:]}"
        )
    bad = ~np.isfinite(samples.x).reshape(len(samples), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} of {len(samples)} samples hold NaN or infinity: the model has diverged; "
            "try an earlier checkpoint, or leave those rows out"
        )
    if samples.class_label is None or data.class_label is None:
        return Dataset(samples.kind, samples.x, info=samples.info)
    numbers = {name: number for number, name in enumerate(data.class_names)}
    used = [samples.class_names[number] for number in np.unique(samples.class_label)]
    if missing := [name for name in used if name not in numbers]:
        raise UserError(
            f"the samples have classes that the real data lacks: {listing(missing)}; it has {listing(numbers)}. "
            "Give the data that the model was trained on"
        )
    table = np.array([numbers.get(name, -1) for name in samples.class_names])
    return Dataset(samples.kind, samples.x, table[samples.class_label], None, None, data.class_names, samples.info)


def without_null(samples: Dataset, data: Dataset) -> tuple[Dataset, int]:
    """Return the samples without those of the null class, and how many were left out. Data has no rows of the null class."""
    if samples.class_label is None or data.class_label is None:
        return samples, 0
    null = [number for number, name in enumerate(samples.class_names) if name in NULL_NAMES]
    null = [number for number in null if samples.class_names[number] not in data.class_names]
    kept = np.flatnonzero(~np.isin(samples.class_label, null))
    left_out = len(samples) - len(kept)
    return (samples.take(kept) if left_out else samples), left_out


def pick_samples(samples: Dataset, wanted: np.ndarray) -> Dataset:
    """Return the first samples of each class so that row i has the class wanted[i]; wanted: (N,)."""
    if samples.class_label is None:
        return samples.take(np.arange(len(wanted)))
    rows = np.empty(len(wanted), np.int64)
    for label in np.unique(wanted):
        places = np.flatnonzero(wanted == label)
        rows[places] = np.flatnonzero(samples.class_label == label)[: len(places)]
    return samples.take(rows)


def _counts(
    labels: np.ndarray, candidates: np.ndarray, partners: np.ndarray | None, limit: int, samples: Dataset | None
) -> np.ndarray:
    """Return the numbers of rows per class that both sides (and the samples) can provide, scaled down to `limit` in total."""
    size = int(labels.max(initial=0)) + 1
    counts = np.bincount(labels[candidates], minlength=size)
    counts = counts // 2 if partners is None else np.minimum(counts, np.bincount(labels[partners], minlength=size))
    if samples is not None:
        there = np.zeros(len(samples), np.int64) if samples.class_label is None else samples.class_label
        counts = np.minimum(counts, np.bincount(there, minlength=size)[:size])
    if counts.sum() <= limit:
        return counts
    exact = counts * (limit / counts.sum())
    cut = np.floor(exact).astype(np.int64)
    cut[np.argsort(cut - exact, kind="stable")[: limit - cut.sum()]] += 1  # largest remainders
    return cut


def _shuffled(rows: np.ndarray, purpose: str, label: int) -> np.ndarray:
    return rows[np.random.default_rng(key(0, "evaluate", purpose, label)).permutation(len(rows))]
