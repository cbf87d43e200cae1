"""Sums that stay on the device between log steps, and a clock that is paused while something other than training runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowkit.distributed.agreement import summed

if TYPE_CHECKING:
    from flowkit.checkpoint.state import MeterState


class Meters:
    """Named sums of 0-d tensors. Adding does not sync; `means` reads all of them at once, averaged over the processes."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._updates = 0
        self._streak: Tensor | None = None  # consecutive updates skipped up to now
        self._peak: Tensor | None = None  # largest loss of one update since the last log step

    def add(self, **values: Tensor) -> None:
        """Add the values of one update or micro-step to their sums."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def update(self, skipped: Tensor, loss: Tensor) -> None:
        """Update the number of consecutive skipped updates and the largest loss of the others, on the device."""
        loss = loss.detach().float().masked_fill(skipped.bool(), 0)
        self._streak = skipped if self._streak is None else (self._streak + skipped) * skipped
        self._peak = loss if self._peak is None else torch.maximum(self._peak, loss)

    def tick(self) -> None:
        """Count one update, for `means` to divide by."""
        self._updates += 1

    def means(self) -> tuple[dict[str, float], int]:
        """Return (means over the updates since the last call and over processes, number of those updates).

        Also contains "streak", the consecutive updates skipped up to now, and "peak", the largest loss, which are not means.
        The only place where the loop waits for the device.
        """
        assert self._streak is not None and self._peak is not None
        extremes = torch.stack((self._streak, self._peak)).double()
        stacked = summed(torch.cat((torch.stack(list(self._sums.values())).double() / self._updates, extremes)))
        if torch.distributed.is_initialized():
            stacked /= torch.distributed.get_world_size()
        means, updates = dict(zip((*self._sums, "streak", "peak"), stacked.tolist(), strict=True)), self._updates
        self._sums, self._updates, self._peak = {}, 0, None
        return means, updates

    def state(self) -> tuple[dict[str, Any], Tensor]:
        """Return what resuming between two log steps needs: (names and counts, sums (processes, k)). A collective.

        The sums stay on the device; with them as lists under "values", this is a `MeterState`.
        """
        assert self._streak is not None
        peak = torch.zeros_like(self._streak) if self._peak is None else self._peak
        values = torch.stack([*self._sums.values(), self._streak, peak])[None]
        if torch.distributed.is_initialized():
            parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(parts, values)
            values = torch.cat(parts)
        return {"names": list(self._sums), "updates": self._updates}, values

    def restore(self, state: MeterState, rank: int, device: torch.device) -> None:
        """Continue from `state`: with this process's sums, or with the mean if the number of processes changed."""
        values = torch.tensor(state.values, dtype=torch.float32, device=device)
        same = torch.distributed.is_initialized() and torch.distributed.get_world_size() == len(values)
        mine = values[rank] if same else values.mean(0)
        *sums, self._streak, self._peak = mine.unbind()
        self._sums = dict(zip(state.names, sums, strict=True))
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
