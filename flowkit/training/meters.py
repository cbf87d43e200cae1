"""Sums that stay on the device between log steps, and a clock that is paused while something other than training runs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowkit.device import host_may_read
from flowkit.distributed.agreement import summed

if TYPE_CHECKING:
    from flowkit.checkpoint.state import MeterState


class Meters:
    """Named sums of 0-d tensors, in one tensor. Adding does not sync; `means` reads all of them, averaged over the processes."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._updates = 0
        # Made once and changed in place, since a recorded update adds to the same memory every time.
        self._sums: Tensor | None = None  # (names,)
        self._streak: Tensor | None = None  # consecutive updates skipped up to now
        self._peak: Tensor | None = None  # largest loss of one update since the last log step

    def update(self, skipped: Tensor, **values: Tensor) -> None:
        """Add the values () of one update, of which one is `loss`, unless `skipped` () is 1; and count it in any case."""
        self.add(skipped, **values)
        self.count()

    def start(self, names: tuple[str, ...], device: torch.device) -> None:
        """Make the sums of the values with those names, unless they are there."""
        names = (*names, "skipped")
        if self._sums is None or self._names != names:
            self._names, self._sums = names, torch.zeros(len(names), device=device)
        if self._streak is None or self._peak is None:
            self._streak, self._peak = torch.zeros((), device=device), torch.full((), -math.inf, device=device)

    def add(self, skipped: Tensor, **values: Tensor) -> None:
        """Do what `update` does on the device."""
        self.start((*values,), skipped.device)
        assert self._sums is not None and self._streak is not None and self._peak is not None
        names = self._names
        added = torch.stack([*(value.detach().float() for value in values.values()), skipped])
        if not host_may_read(skipped.device) or skipped:
            added[:-1].masked_fill_(skipped.bool(), 0)
        self._streak.add_(skipped).mul_(skipped)
        torch.maximum(self._peak, added[names.index("loss")], out=self._peak)
        self._sums.add_(added)

    def count(self) -> None:
        """Count an update whose values a recorded one has added."""
        self._updates += 1

    @property
    def tensors(self) -> list[Tensor]:
        """What `add` changes."""
        return [tensor for tensor in (self._sums, self._streak, self._peak) if tensor is not None]

    def means(self) -> tuple[dict[str, float], int]:
        """Return (means over the updates since the last call and over processes, number of those updates).

        Also contains "streak", the consecutive updates skipped up to now, and "peak", the largest loss, which are not means.
        The only place where the loop waits for the device.
        """
        assert self._sums is not None and self._streak is not None and self._peak is not None
        extremes = torch.stack((self._streak, self._peak)).double()
        stacked = summed(torch.cat((self._sums.double() / self._updates, extremes)))
        if torch.distributed.is_initialized():
            stacked /= torch.distributed.get_world_size()
        means, updates = dict(zip((*self._names, "streak", "peak"), stacked.tolist(), strict=True)), self._updates
        self._sums.zero_()
        self._peak.fill_(-math.inf)
        self._updates = 0
        return means, updates

    def state(self) -> tuple[dict[str, Any], Tensor]:
        """Return what resuming between two log steps needs: (names and counts, sums (processes, k)). A collective.

        The sums stay on the device; with them as lists under "values", this is a `MeterState`.
        """
        assert self._streak is not None and self._peak is not None
        peak, sums, names = self._peak, self._sums, self._names
        if sums is None or not self._updates:
            peak, sums, names = torch.zeros_like(peak), self._streak.new_empty(0), ()
        values = torch.cat((sums, torch.stack((self._streak, peak))))[None]
        if torch.distributed.is_initialized():
            parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(parts, values)
            values = torch.cat(parts)
        return {"names": list(names), "updates": self._updates}, values

    def restore(self, state: MeterState, rank: int, device: torch.device) -> None:
        """Continue from `state`: with this process's sums, or with the mean if the number of processes changed."""
        values = torch.tensor(state.values, dtype=torch.float32, device=device)
        same = torch.distributed.is_initialized() and torch.distributed.get_world_size() == len(values)
        mine = values[rank] if same else values.mean(0)
        self._names, self._sums = tuple(state.names), mine[:-2].clone() if state.names else None
        self._streak, self._peak = mine[-2].clone(), mine[-1].clone()
        if not state.names:
            self._peak.fill_(-math.inf)
        self._updates = state.updates


class Stopwatch:
    """Seconds spent training, without validation, sampling and saving, for the rows per second."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._held = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self._started - self._held

    @contextlib.contextmanager
    def held(self, device: torch.device) -> Iterator[None]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # updates still running on the GPU count as training
        start = time.perf_counter()
        try:
            yield
        finally:
            self._held += time.perf_counter() - start


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory of the device's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes
