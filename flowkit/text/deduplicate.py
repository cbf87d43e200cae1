"""Find duplicates: equal sentences, and vectors in almost the same direction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.domain import Tell

BLOCK = 1024  # rows that are decided together
TILE = 2048  # rows that a block is compared with at once, chosen so that their bounds fit in a CPU's cache
BASIS = 128  # dimensions of the projection that rules out most pairs
BASIS_ROWS = 8192  # rows that it is fitted on
SLACK = 1e-4  # added to bounds, for rounding in single precision


@dataclass(frozen=True)
class Duplicates:
    """Which of N rows are kept, and for each removed row the one that is kept instead."""

    partner: np.ndarray  # (N,) int64, -1 for rows that are kept
    cosine: np.ndarray  # (N,) float32, to the partner; 1 for rows that are kept

    @property
    def kept(self) -> np.ndarray:
        """Row numbers, in order."""
        return np.flatnonzero(self.partner < 0)

    @property
    def removed(self) -> np.ndarray:
        return np.flatnonzero(self.partner >= 0)


def exact_duplicates(keys: Iterable[Hashable]) -> Duplicates:
    """Keep the first of all rows with equal keys."""
    first: dict[Hashable, int] = {}
    owner = np.fromiter((first.setdefault(key, row) for row, key in enumerate(keys)), np.int64)
    return Duplicates(np.where(owner == np.arange(len(owner)), -1, owner), np.ones(len(owner), np.float32))


def row_keys(x: np.ndarray) -> Iterator[bytes]:
    """Yield a key for each row of x (N, D), equal for bitwise equal rows."""
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x)


def near_duplicates(
    x: np.ndarray,
    rows: np.ndarray,
    threshold: float,
    *,
    device: str = "auto",
    tell: Tell | None = None,
) -> Duplicates:
    """Remove each row of x[rows] (N, D) whose cosine to an earlier kept row is above `threshold`.

    No two kept rows have a cosine above it. All pairs are compared in blocks, so memory grows linearly with N. The
    Cauchy-Schwarz bound in an orthonormal basis of few directions, cos(a, b) <= <Pa, Pb> + |a - Pa| |b - Pb|, rules out
    almost all pairs cheaply; the rest are compared in full.

    `x` may be a memory map. Rows of zeros have no duplicates. tell: receives the pairs decided, and their total.
    """
    import torch

    from flowkit.device import pick_device

    place, count, total = pick_device(device, cuda_only=True), 0, len(rows)
    shorten = _shortener(x, rows, place)
    partner, cosine = np.full(total, -1, np.int64), np.ones(total, np.float32)
    kept = np.empty(total, np.int64)  # the first `count` are the rows that are left so far
    kept_short = torch.empty(total, shorten(_unit(x[rows[:1]], place)).shape[1], device=place)
    for start in range(0, total, BLOCK):
        block = _unit(x[rows[start : start + BLOCK]], place)
        short = shorten(block)
        undecided = np.arange(len(block))
        for tile in range(0, count, TILE):
            others = slice(tile, min(tile + TILE, count))
            bound = short[undecided] @ kept_short[others].T
            near = _indices(bound.amax(dim=1) > threshold - SLACK)
            if not len(near):
                continue
            columns = _indices(bound.amax(dim=0) > threshold - SLACK)
            close = block[undecided[near]] @ _unit(x[rows[kept[others][columns]]], place).T
            best, which = (found.cpu().numpy() for found in close.max(dim=1))
            above = np.flatnonzero(best > threshold)
            gone = start + undecided[near[above]]
            partner[gone], cosine[gone] = kept[others][columns[which[above]]], best[above]
            undecided = np.delete(undecided, near[above])
        for first, later, values in _greedy((block[undecided] @ block[undecided].T).cpu().numpy(), threshold):
            partner[start + undecided[later]], cosine[start + undecided[later]] = start + undecided[first], values
        left = np.flatnonzero(partner[start : start + len(block)] < 0)
        kept[count : count + len(left)] = start + left
        kept_short[count : count + len(left)] = short[left]
        count += len(left)
        if tell is not None:
            done = start + len(block)
            tell("comparing", done * (done + 1) // 2, total * (total + 1) // 2)
    return Duplicates(partner, cosine)


def _greedy(cosines: np.ndarray, threshold: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (kept row, its later duplicates, their cosines) from the cosines (B, B) within a block."""
    above = np.triu(cosines > threshold, 1)
    gone = np.zeros(len(cosines), bool)
    for row in np.flatnonzero(above.any(axis=1)):
        if not gone[row]:
            later = np.flatnonzero(above[row] & ~gone)
            gone[later] = True
            yield int(row), later, cosines[row, later]


def _unit(rows: np.ndarray, place: object) -> Tensor:
    """Return rows (B, D) scaled to length 1, on the device."""
    import torch

    x = torch.from_numpy(np.array(rows, np.float32)).to(place)  # type: ignore[arg-type]
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _shortener(x: np.ndarray, rows: np.ndarray, place: object) -> Callable[[Tensor], Tensor]:
    """Return a map of unit rows (B, D) to (B, K + 1) whose inner products are upper bounds of the rows' cosines.

    The projection is onto the principal directions (uncentered) of a subset of the rows.
    """
    import torch

    if len(rows) <= BASIS_ROWS or x.shape[1] < 2 * BASIS:  # nothing to save
        return lambda unit: unit
    sample = _unit(x[rows[np.arange(BASIS_ROWS) * len(rows) // BASIS_ROWS]], place).double()
    basis = torch.linalg.eigh(sample.T @ sample)[1][:, -BASIS:].float()

    def shorten(unit: Tensor) -> Tensor:
        inside = unit @ basis
        beyond = (unit.square().sum(1, keepdim=True) - inside.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
        return torch.cat([inside, beyond], dim=1)

    return shorten


def _indices(mask: Tensor) -> np.ndarray:
    return mask.nonzero().squeeze(1).cpu().numpy()
