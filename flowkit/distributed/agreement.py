"""What all processes of a run agree on: sums, and why to stop."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import Tensor, distributed

GO_ON, OUT_OF_TIME = 0, 1  # other reasons to stop are signal numbers


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

    Exchanges one number per process and update between the hosts, while the next update is already being enqueued.

    Uses its own gloo group: on GPUs the run's group would queue it behind all pending work. An update reads
    the answer of the previous one, so no process waits. All read the same answer, so all stop at the same update.
    """

    def __init__(self, timeout: timedelta) -> None:
        """timeout: how long to wait for the other processes."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = distributed.new_group(backend="gloo", timeout=timeout) if several else None
        self._asked: tuple[distributed.Work, Tensor] | None = None

    def of(self, reason: int) -> int:
        """Return the largest reason of any process, as of the previous update if there are several. A collective."""
        if self._group is None:
            return reason
        answer = self.settle()
        largest = torch.tensor([reason], dtype=torch.int32)
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
        return int(largest)
