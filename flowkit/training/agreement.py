"""What any process asks for, all of them learn at the end of the same update, and nobody reads the device for it."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


class Agreement:
    """Passes one flag a process and update around on the hosts, while the next update is already being enqueued.

    Its own gloo group: on GPUs the run's own group would put the question behind all the work that the devices have yet to do.
    The answer is that of the update before, so that nobody waits for it; it is the same everywhere, and so is where they stop.
    """

    def __init__(self) -> None:
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = distributed.new_group(backend="gloo") if several else None
        self._asked: tuple[distributed.Work, Tensor] | None = None

    def any(self, asked: bool) -> bool:
        """Whether any process asked, up to the update before where there are several. A collective, once an update."""
        if self._group is None:
            return asked
        answer = self.settle()
        flag = torch.tensor([asked], dtype=torch.int32)
        work = distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, flag
        return answer

    def settle(self) -> bool:
        """The answer to the last question, which nobody may leave open when the group ends."""
        if self._asked is None:
            return False
        work, flag = self._asked
        self._asked = None
        work.wait()
        return bool(flag)
