"""Images or texts as an encoder's tokens: of each row none, one or several. Stored next to the rows, in half precision.

A data set `<name>.safetensors` has them in `<name>.image.safetensors` and `<name>.text.safetensors`. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.arrays import gather, write_tensors
from flowkit.data.header import read_header
from flowkit.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """The items (images or texts) of N rows. `tokens` may be a read-only memory map, which is never copied here."""

    tokens: np.ndarray  # (M, P, C) float16, the items of row 0, then of row 1, ...
    first: np.ndarray  # (N + 1,) int64: row i has the items first[i] to first[i + 1]
    mask: np.ndarray | None = None  # (M, P) bool: True for tokens, False for padding; None: no padding
    info: dict[str, Any] = field(default_factory=dict)  # encoder, fingerprint and what else is known
    order: np.ndarray | None = (
        None  # (M,) int64: the item at each place, if `tokens` and `mask` are not in the order of the rows
    )

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens per item, and their width."""
        return self.tokens.shape[1], self.tokens.shape[2]

    @property
    def counts(self) -> np.ndarray:
        """The number of items of each row: (N,) int64."""
        return np.diff(self.first)

    def of(self, rows: np.ndarray, turns: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return copies of the tokens (b, P, C) and the mask (b, P) of one item of each of `rows` (b,).

        turns: (b,) random numbers on [0, 1) that choose among the items; by default the first. A row without items has a mask of
        False, which means that its condition is dropped.
        """
        rows = np.asarray(rows)
        counts = self.first[rows + 1] - self.first[rows]
        turns = np.zeros(len(rows)) if turns is None else turns
        there = counts > 0
        items = np.where(there, self.first[rows] + np.minimum(turns * counts, counts - 1).astype(np.int64), 0)
        items = items if self.order is None or not len(self.order) else self.order[items]
        if not len(self.tokens):
            return np.zeros((len(rows), *self.shape), np.float16), np.zeros((len(rows), self.shape[0]), bool)
        tokens = gather(self.tokens, items)
        mask = None if self.mask is None else gather(self.mask, items)
        if not there.all():
            tokens[~there] = 0
            mask = (np.ones(tokens.shape[:2], bool) if mask is None else mask) & there[:, None]
        return tokens, mask

    def items(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of `rows` (b,), in `tokens`, row after row, and the `first` of those rows alone."""
        rows = np.asarray(rows)
        picked = [np.arange(int(self.first[row]), int(self.first[row + 1])) for row in rows]
        first = np.concatenate([[0], np.cumsum([len(one) for one in picked])]).astype(np.int64)
        items = np.concatenate([*picked, np.empty(0, np.int64)]).astype(np.int64)
        return items if self.order is None else self.order[items], first

    def take(self, rows: np.ndarray) -> Encoded:
        """Return a copy with the items of `rows` only, in that order."""
        items, first = self.items(rows)
        mask = None if self.mask is None else np.ascontiguousarray(self.mask[items])
        return Encoded(gather(self.tokens, items), first, mask, self.info)


def encoded_file(tensors: Path, kind: str) -> Path:
    """Return the file of the images or texts of the data set `tensors`: data/mine.image.safetensors."""
    return tensors.with_suffix(f".{kind}.safetensors")


def write_encoded(path: Path, encoded: Encoded, rows: np.ndarray | None = None) -> None:
    """Write the items of `rows`, by default all, in pieces. Raises OSError."""
    items, first = encoded.items(np.arange(len(encoded)) if rows is None else rows)
    arrays = {"tokens": encoded.tokens, **({} if encoded.mask is None else {"mask": encoded.mask})}
    write_tensors(path, arrays, items, fixed={"first": first})


def read_encoded(path: Path, rows: int, info: dict[str, Any]) -> Encoded:
    """Open the items of `rows` rows, memory-mapped. Raises UserError if the file does not fit."""
    from flowkit.data.dataset import memory_map

    header = read_header(path)
    wanted = {"tokens": "F16", "first": "I64", "mask": "BOOL"}
    for name in ("tokens", "first"):
        if name not in header:
            raise UserError(f"{path}: has no tensor {name!r}; prepare the data set again")
    for name, entry in header.items():
        if name in wanted and entry.dtype != wanted[name]:
            raise UserError(f"{path}: tensor {name!r} is {entry.dtype}; expected {wanted[name]}")
    shape = header["tokens"].shape
    if len(shape) != 3 or header["first"].shape != (rows + 1,):
        raise UserError(
            f"{path}: does not belong to {rows:,} rows (tokens of shape {shape}); prepare the data set again"
        )
    arrays = {name: memory_map(path, header[name]) for name in wanted if name in header}
    first = np.array(arrays["first"])
    if first[0] != 0 or first[-1] != shape[0] or (np.diff(first) < 0).any():
        raise UserError(f"{path}: its rows and items do not match; prepare the data set again")
    if "mask" in arrays and arrays["mask"].shape != shape[:2]:
        raise UserError(f"{path}: tensor 'mask' has shape {arrays['mask'].shape}; expected {shape[:2]}")
    return Encoded(arrays["tokens"], first, arrays.get("mask"), info)
