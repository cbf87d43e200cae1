"""The rows of each update, for one process: kept on the device if they fit, else read ahead from the memory map."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowkit.conditions import Conditions
from flowkit.data.arrays import gather
from flowkit.data.dataset import Dataset
from flowkit.data.normalizers import Normalizer
from flowkit.device import to_device
from flowkit.rng import RowOrder, key

RESIDENT_SHARE = 0.25  # fraction of the device's free memory that data may use
RESIDENT_CPU_BYTES = 1 << 30  # a copy only saves page faults on the CPU


@dataclass(frozen=True)
class Layout:
    """How a global batch is shared: micro-step m on rank r takes rows (m * world_size + r) * micro onwards."""

    batch_size: int
    micro: int
    accumulation: int
    rank: int
    world_size: int

    def start(self, micro_step: int) -> int:
        return (micro_step * self.world_size + self.rank) * self.micro

    def indices(self) -> np.ndarray:
        """Return the indices in the global batch of this rank's rows, by micro-step."""
        return np.concatenate([np.arange(self.micro) + self.start(m) for m in range(self.accumulation)])


@dataclass(frozen=True)
class Rows:
    """Normalized rows on the device, x (b, ...), and their conditions."""

    x: Tensor
    conditions: Conditions

    def slice(self, start: int, stop: int) -> Rows:
        return Rows(self.x[start:stop], self.conditions.slice(start, stop))

    def pick(self, indices: Tensor) -> Rows:
        return Rows(self.x[indices], self.conditions.take(indices))


class Batches:
    """`of(update)` returns this rank's rows of that update, in the order of its micro-steps."""

    def __init__(
        self,
        data: Dataset,
        normalizer: Normalizer,
        layout: Layout,
        seed: int,
        device: torch.device,
        *,
        shuffled: bool = True,
    ):
        self.data, self.normalizer, self.device = data, normalizer, device
        self.train_rows = data.rows("train")
        self.order = RowOrder(len(self.train_rows), layout.batch_size, seed, shuffled=shuffled)
        self.indices = layout.indices()
        row_bytes = data.x[:1].nbytes + (0 if data.condition is None else data.condition[:1].nbytes)
        # One of several images or texts is drawn per visit, so these stay in their file.
        self.drawn = tuple(kind for kind in data.encoded if kind in data.condition_kinds)
        self.resident = not self.drawn and len(self.train_rows) * row_bytes <= _room(device)
        self._pool = None if self.resident else ThreadPoolExecutor(1, "read-ahead")
        self._ahead: tuple[int, Future[Rows]] | None = None
        self._all = read_rows(data, self.train_rows, normalizer, device) if self.resident else None

    def of(self, update: int) -> Rows:
        if self._all is not None:
            return self.pick(self.picked(update))
        assert self._pool is not None
        if self._ahead is None or self._ahead[0] != update:
            self._ahead = (update, self._pool.submit(self._read, update))
        rows = self._ahead[1].result()
        self._ahead = (update + 1, self._pool.submit(self._read, update + 1))
        return rows

    def picked(self, update: int) -> Tensor:
        """Return the numbers (b,) of this rank's rows of that update among the resident rows, on the device."""
        return to_device(torch.from_numpy(self.order.batch(update)[self.indices]), self.device)

    def pick(self, picked: Tensor) -> Rows:
        """Return the resident rows with those numbers (b,)."""
        assert self._all is not None
        return self._all.pick(picked)

    def global_rows(self, update: int) -> np.ndarray:
        """Return the data's row numbers of the update's global batch."""
        return self.train_rows[self.order.batch(update)]

    def window(self, first: int, updates: int) -> Rows:
        """Return the global rows of those updates, normalized, in stream order. Safe to call from other threads than `of`.

        They are on the device if all rows are, else on the CPU.
        """
        picked = np.concatenate([self.order.batch(first + u) for u in range(updates)])
        if self._all is None:
            drawn = [self._turns(first + u) for u in range(updates)]
            turns = {kind: np.concatenate([one[kind] for one in drawn]) for kind in self.drawn}
            return read_rows(self.data, self.train_rows[picked], self.normalizer, torch.device("cpu"), turns=turns)
        return self._all.pick(to_device(torch.from_numpy(picked), self.device))

    def _read(self, update: int) -> Rows:
        rows, turns = self.global_rows(update)[self.indices], self._turns(update)
        mine = {kind: one[self.indices] for kind, one in turns.items()}
        return read_rows(self.data, rows, self.normalizer, self.device, pinned=True, turns=mine)

    def _turns(self, update: int) -> dict[str, np.ndarray]:
        """Return what chooses among a row's images and texts: (B,) on [0, 1) by kind, for the global batch."""
        return {kind: np.random.Generator(np.random.Philox(key(self.order.seed, f"which {kind}", update))).random(
                len(self.order.batch(update))) for kind in self.drawn}  # fmt: skip

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def read_rows(
    data: Dataset, rows: np.ndarray, normalizer: Normalizer, device: torch.device, *, pinned: bool = False,
    turns: Mapping[str, np.ndarray] | None = None,
) -> Rows:  # fmt: skip
    """Copy `rows` to the device and normalize them there. pinned: copy through pinned memory, to overlap with training.

    turns: what chooses among a row's images and texts, by kind, as in `Encoded.of`.
    """

    def move(tensor: Tensor) -> Tensor:
        # Torch never returns pinned memory to the system, so do not pin a whole data set.
        return to_device(tensor, device) if pinned else tensor.to(device)

    return Rows(normalizer.normalize_rows(data.x, rows, move), conditions_of(data, rows, turns).map(move))


def conditions_of(data: Dataset, rows: np.ndarray, turns: Mapping[str, np.ndarray] | None = None) -> Conditions:
    """Return copies of the conditions of `rows` that a model of the data is given. turns: as in `read_rows`."""
    kinds, found = data.condition_kinds, dict[str, Tensor]()
    arrays = {"class_label": data.class_label if "class" in kinds else None,
              "tokens": data.condition if "condition" in kinds else None,
              "mask": data.condition_mask if "condition" in kinds else None}  # fmt: skip
    found |= {name: torch.from_numpy(gather(array, rows)) for name, array in arrays.items() if array is not None}
    encoded = data.encoded_of([kind for kind in data.encoded if kind in kinds], rows, turns)
    return Conditions(**found, **{name: torch.from_numpy(array) for name, array in encoded.items()})


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE)
    return RESIDENT_CPU_BYTES
