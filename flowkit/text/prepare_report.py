"""What `prepare` says of sentences when it is done. Torch-free, for the view and the sidecar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHUNK = 1 << 14  # rows


@dataclass(frozen=True)
class Pair:
    """A row that was left out, and the one that stands for it: sentences where they are at hand, and lines or rows."""

    texts: tuple[str, str] | None
    numbers: tuple[int, int]
    cosine: float | None = None  # None: they are equal


@dataclass(frozen=True)
class Removed:
    count: int
    pair: Pair | None = None  # of near-duplicates, those with the lowest cosine


@dataclass(frozen=True)
class Statistics:
    """Of the training rows."""

    norm: float
    norm_std: float
    element_std: float


@dataclass(frozen=True)
class TextReport:
    source: Path
    format: str  # "txt", "jsonl", "npy", "safetensors", "pt"
    paths: tuple[Path, ...]  # .safetensors, .json, and .jsonl where there are sentences
    shape: tuple[int, int]
    splits: dict[str, int]
    read: int  # lines, or vectors
    unit: str  # "lines" | "vectors"
    sentences: int | None  # what the lines were split into; None where they were not
    empty: int
    exact: Removed
    near: Removed
    threshold: float  # cosine; 0 where near-duplicates were kept
    truncated: int  # sentences with more tokens than the codec takes
    statistics: Statistics
    codec: str | None
    remarks: tuple[str, ...] = ()


def statistics(x: np.ndarray, rows: np.ndarray) -> Statistics:
    """Of x[rows] (N, D), a piece at a time."""
    count = norms = squared_norms = total = 0.0
    for start in range(0, len(rows), CHUNK):
        piece = x[rows[start : start + CHUNK]].astype(np.float64)
        squares = (piece**2).sum(axis=1)
        count += len(piece)
        norms += float(np.sqrt(squares).sum())
        squared_norms += float(squares.sum())
        total += float(piece.sum())
    elements = count * x.shape[1]
    norm = norms / count
    variance = max(squared_norms / elements - (total / elements) ** 2, 0.0)
    return Statistics(norm, max(squared_norms / count - norm**2, 0.0) ** 0.5, variance**0.5)
