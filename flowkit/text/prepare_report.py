"""The report of `prepare` on sentences. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHUNK = 1 << 14  # rows


@dataclass(frozen=True)
class Pair:
    """A row that was removed and its duplicate that was kept: sentences if known, and line or row numbers."""

    texts: tuple[str, str] | None
    numbers: tuple[int, int]
    cosine: float | None = None  # None: exact duplicates


@dataclass(frozen=True)
class Removed:
    count: int
    pair: Pair | None = None  # an example; for near-duplicates, the pair with the lowest cosine


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training rows."""

    norm: float
    norm_std: float
    element_std: float


@dataclass(frozen=True)
class TextReport:
    source: Path
    format: str  # "txt", "jsonl", "npy", "safetensors", "pt"
    paths: tuple[Path, ...]  # .safetensors, .json, and .jsonl if there are sentences
    shape: tuple[int, int]
    splits: dict[str, int]
    read: int  # lines, or vectors
    unit: str  # "lines" | "vectors"
    sentences: int | None  # after splitting lines into sentences; None if they were not split
    empty: int
    exact: Removed
    near: Removed
    threshold: float  # cosine; 0 if near-duplicates were kept
    truncated: int  # sentences that exceed the maximum number of tokens
    statistics: Statistics
    codec: str | None
    remarks: tuple[str, ...] = ()


def statistics(x: np.ndarray, rows: np.ndarray) -> Statistics:
    """Return statistics of x[rows] (N, D), computed in chunks."""
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
