"""What all processes of a run agree on: sums, and why to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor, distributed

GO_ON, OUT_OF_TIME = 0, 1  # other reasons to stop are signal numbers
PAUSE = 0.05  # seconds between two exchanges; a stop takes up to two of them
LONGEST = 100  # updates between two exchanges


def reason_words(reason: int) -> str:
    """Return the name of the reason why a run ended."""
    return {GO_ON: "done", OUT_OF_TIME: "out of time"}.get(reason, "interrupted")


def summed(tensor: Tensor) -> Tensor:
    """Sum this tensor over all processes, in place. A collective if there are several."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


class Agreement:
    """Share a reason to stop: if any process has one, all learn it at the end of the same update, without a device sync.

    Exchanges two numbers between the hosts, while the next updates are already being enqueued: the reason, and how many
    updates from now the next exchange is. Long updates exchange every time. Short ones exchange about every PAUSE seconds,
    as their own speed would otherwise be that of the network between the machines.

    Uses its own gloo group: on GPUs the run's group would queue it behind all pending work. An exchange reads the answer of
    the previous one, so no process waits. All read the same answer, so all count alike and stop at the same update.
    """

    def __init__(self, timeout: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """timeout: how long to wait for the other processes."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = distributed.new_group(backend="gloo", timeout=timeout) if several else None
        self._asked: tuple[distributed.Work, Tensor] | None = None
        self._clock, self._since = clock, clock()
        self._updates = 0  # since the last exchange
        self._every = 1

    def of(self, reason: int) -> int:
        """Return the largest reason of any process, as of the exchange before if there are several. Called at every update."""
        if self._group is None:
            return reason
        self._updates += 1
        if self._updates < self._every:
            return GO_ON
        answer, now = self.settle(), self._clock()
        affordable = int(PAUSE * self._updates / max(now - self._since, 1e-9))
        self._updates, self._since = 0, now
        # The slowest process decides how long to wait, by the largest negative number.
        largest = torch.tensor([reason, -min(max(affordable, 1), LONGEST)], dtype=torch.int32)
        work = distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, largest
        return answer

    def settle(self) -> int:
        """Return the answer to the last question. Must be called before the group ends."""
        if self._asked is None:
            return GO_ON
        work, largest = self._asked
        self._asked = None
        work.wait()
        reason, negative = largest.tolist()
        self._every = -negative
        return reason
