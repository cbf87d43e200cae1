"""CUDA graphs: how an update is recorded on a GPU, for `train.capture`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowkit.distributed.environment import Environment

if TYPE_CHECKING:
    from flowkit.training.session import Session


def why_not_captured(environment: Environment) -> str | None:
    """Return why updates cannot be recorded as CUDA graphs here; None if they can be tried."""
    if environment.sharded:
        return "not supported with FSDP"
    if environment.world_size > 1:
        return "not supported with several processes yet"
    return None if environment.accelerator.device.type == "cuda" else "requires a CUDA device"


class CudaGraphs:
    """Records CUDA graphs on a stream of its own."""

    key = "train.capture"
    otherwise = "updates run eagerly"
    close = 1e-2, 3e-7  # kernels may add in any order

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run on the stream of the graphs, so that libraries have their workspaces there, and raise where the host waits."""
        before, current = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        _find_waits("error")
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            _find_waits(before)
            current.wait_stream(self.stream)

    def record(self, body: Callable[[], object], memory: Sequence[Tensor]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        # Threads that pair or read ahead call CUDA meanwhile, which only their own captures would forbid.
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                body()
        except RuntimeError:
            # A recording that failed may leave the generator marked as recorded, and then it cannot be seeded.
            number = torch.cuda.current_device() if self.device.index is None else self.device.index
            fresh = torch.Generator(self.device).graphsafe_get_state()
            torch.cuda.default_generators[number].graphsafe_set_state(fresh)
            raise
        return graph.replay

    def done(self, seconds: float) -> str:
        return ""

    def give_up(self, session: Session) -> None:
        pass


def _find_waits(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not find every wait
        torch.cuda.set_sync_debug_mode(mode)
