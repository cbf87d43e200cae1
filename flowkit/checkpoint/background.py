"""Save in the background: training only waits for a copy of its tensors, which a thread then writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowkit.checkpoint import STATE
from flowkit.checkpoint.saving import contents, save_checkpoint
from flowkit.errors import UserError
from flowkit.events import Event, Notice, Saved, Validated

if TYPE_CHECKING:
    from flowkit.training.meters import Meters
    from flowkit.training.session import Session


class Saver:
    """Writes the checkpoints of a run, one at a time, from a copy in host memory whose buffers are reused."""

    def __init__(self, session: Session, emit: Callable[[Event], None]):
        self.session = session
        self.emit = emit
        self._noticed: set[str] = set()  # each is shown once per run
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._writing: Future[tuple[Saved, list[str]]] | None = None
        self._best: tuple[int, float] | None = None  # after the current write

    def start(self, step: int, validated: Validated | None, meters: Meters, skipped: int) -> None:
        """Copy everything in a checkpoint of this step, and start writing it. Call `settle` before. A collective.

        skipped: number of updates skipped up to the last log step.
        """
        session, started = self.session, time.perf_counter()
        counts, sums = meters.state()
        tensors = contents(session.model, {} if session.ema is None else session.ema.modules(), session.optimizer)
        if not session.is_main:
            return
        assert self._writing is None, "one checkpoint at a time"
        is_best = validated is not None and validated.best
        self._best = (step, validated.loss) if validated is not None and is_best else session.best
        scaler = session.environment.accelerator.scaler
        state = {
            "step": step,
            "best": self._best,
            "scaler": None if scaler is None else scaler.state_dict(),
            "skipped": skipped,
        }
        sidecar = session.sidecar(step, None if validated is None else validated.losses())
        tensors = {file: {name: self._copy(file, name, tensor) for name, tensor in named.items()}
                   for file, named in tensors.items()}  # fmt: skip
        sums, copied = self._copy(STATE, "meters", sums), _mark(session.device)

        def write() -> tuple[Saved, list[str]]:
            if copied is not None:
                copied.synchronize()
            state["meters"] = {**counts, "values": sums.tolist()}
            notices: list[str] = []
            path = save_checkpoint(
                session.run_dir, step, tensors=tensors, normalizer=session.normalizer.tensors(), sidecar=sidecar,
                state=state, best=is_best, keep_last=session.recipe.train.keep_last,
                keep_every=session.recipe.train.keep_every.steps(session.steps_per_epoch), notice=notices.append,
            )  # fmt: skip
            return Saved(step, path, is_best, time.perf_counter() - started), notices

        self._writing = _in_background(write)

    def tell(self) -> None:
        """Report the checkpoint that is being written, once it is done. Never waits."""
        if self._writing is not None and self._writing.done():
            self.settle()

    def settle(self, *, last: bool = False) -> None:
        """Wait for the checkpoint and report it. A failure is a notice, or a UserError at the end of training."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            saved, notices = writing.result()
        except UserError as error:
            if last:
                raise UserError(f"{error}. Free some space or fix the folder, then continue with --resume") from None
            self.emit(Notice(f"{error}. Training continues; the next checkpoint is saved when it is due"))
            return
        self.session.best = self._best
        self.emit(saved)
        for text in notices:
            if text not in self._noticed:
                self._noticed.add(text)
                self.emit(Notice(text))

    def _copy(self, file: str, name: str, tensor: Tensor) -> Tensor:
        """Copy `tensor` to host memory. From a GPU the copy is only enqueued, after the updates before it."""
        tensor = tensor.detach()
        copy = self._copies.get((file, name))
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
            self._copies[file, name] = copy
        return copy.copy_(tensor, non_blocking=True)


def _in_background(work: Callable[[], Any]) -> Future[Any]:
    """Run `work` in a daemon thread, which does not delay the exit of the process, and return its future result."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """Return an event to wait for until the copies enqueued so far are done; None without CUDA."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
