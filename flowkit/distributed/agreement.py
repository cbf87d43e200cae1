"""What all processes of a run know together: sums over them, and why to stop."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import Tensor, distributed

GO_ON, OUT_OF_TIME = 0, 1  # any other reason to stop is the number of a signal


def reason_words(reason: int) -> str:
    """What a run that ended for that reason is called."""
    return {GO_ON: "done", OUT_OF_TIME: "out of time"}.get(reason, "interrupted")


def summed(tensor: Tensor) -> Tensor:
    """The sum of this tensor over all processes, in its place. A collective where there are several."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


class Agreement:
    """What any process was told, all of them learn at the end of the same update, and nobody reads the device for it.

    Passes one number a process and update around on the hosts, while the next update is already being enqueued.

    Its own gloo group: on GPUs the run's own group would put the question behind all the work that the devices have yet to do.
    The answer is that of the update before, so that nobody waits for it; it is the same everywhere, and so is where they stop.
    """

    def __init__(self, timeout: timedelta) -> None:
        """timeout: how long the others are waited for."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = distributed.new_group(backend="gloo", timeout=timeout) if several else None
        self._asked: tuple[distributed.Work, Tensor] | None = None

    def of(self, reason: int) -> int:
        """The largest reason of any process, up to the update before where there are several. A collective, once an update."""
        if self._group is None:
            return reason
        answer = self.settle()
        largest = torch.tensor([reason], dtype=torch.int32)
        work = distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, largest
        return answer

    def settle(self) -> int:
        """The answer to the last question, which nobody may leave open when the group ends."""
        if self._asked is None:
            return GO_ON
        work, largest = self._asked
        self._asked = None
        work.wait()
        return int(largest)
