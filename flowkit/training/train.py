"""From a recipe to a finished run: start the processes' environment, build or restore everything, run the loop, leave."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from flowkit.checkpoint import METRICS, find_checkpoint, list_checkpoints
from flowkit.data.dataset import Dataset
from flowkit.data.source import open_data, with_split
from flowkit.errors import UserError
from flowkit.events import Event, Listener, Notice
from flowkit.training import environment as environments
from flowkit.training.agreement import GO_ON, OUT_OF_TIME
from flowkit.training.launcher import end_with_launcher
from flowkit.training.loop import run
from flowkit.training.resume import check_numerics, checkpoint_normalizer, recipe_changes, restore
from flowkit.training.run_dir import open_run_dir, write_run_dir
from flowkit.training.run_lock import HANDOVER, RunLock
from flowkit.training.session import Session, build
from flowkit.training.sharding import full_tensors
from flowkit.training.snapshots import drop_later_snapshots
from flowkit.training.trackers import MetricsFile, WandbTracker, require_wandb

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
RESERVE = 120.0  # seconds of train.max_hours that are left for the last save; a tenth of a shorter time


@dataclasses.dataclass(frozen=True)
class Outcome:
    run_dir: Path
    reason: str  # "done" | "already done" | "interrupted" | "out of time"
    signal: int | None  # what interrupted it, here or elsewhere


def train(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    resume: bool | Literal["auto"] = False,
    allow_changes: bool = False,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    listeners: Callable[[], Sequence[Listener]] = tuple,
) -> Outcome:
    """Train what the recipe describes, or the given module on the given rows. Called alike on every process.

    resume: "auto" goes on where the run has a checkpoint, and starts it where it has none.
    `listeners` is called on the main process only, when the run is about to begin. Raises UserError before anything of an
    earlier run is touched.
    """
    end_with_launcher()
    if resume is True and init_from is not None:
        raise UserError("--resume and --init-from contradict each other: a resumed run goes on from its own checkpoint")
    started, auto = time.monotonic(), resume == "auto"
    with environments.joined(recipe) as environment, RunLock(recipe.run.directory) as lock:
        accelerator = environment.accelerator
        run_dir, resume_from = recipe.run.directory, None
        if resume:
            if accelerator.is_main_process and run_dir.is_dir():
                lock.take(wait=HANDOVER)
            accelerator.wait_for_everyone()
        if auto:
            resume = bool(list_checkpoints(run_dir))
            # What was killed before its first checkpoint has nothing to lose; what is no run is still refused.
            overwrite = overwrite or not resume
            init_from = None if resume else init_from  # where it goes on, it began with those weights
        if accelerator.is_main_process or resume:
            run_dir, resume_from = open_run_dir(recipe, resume=bool(resume), overwrite=overwrite)
        if recipe.model.arch == "custom" and model is None:
            raise UserError(
                'model.arch: "custom" stands for a module given to flowkit.train(recipe, model=...) from Python'
            )
        if recipe.track.wandb and accelerator.is_main_process:
            require_wandb()
        source = recipe.data.source if data is None else "data given from Python"
        if data is None:
            data = open_data(recipe)
        else:
            data = with_split(data, recipe.data.val_fraction, recipe.data.subset, recipe.data.seed, source)
        start = None
        if resume_from is not None:
            start = find_checkpoint(resume_from)
            if not allow_changes:
                check_numerics(run_dir, start)
            changes = recipe_changes(recipe, start)
            if changes and not allow_changes:
                raise UserError(
                    f"{run_dir}: the recipe is not the one that this run began with: {'; '.join(changes)}. Put that back, "
                    "or go on all the same with --allow-changes"
                )
        elif init_from is not None:
            start = find_checkpoint(init_from)
        normalizer = None if start is None else checkpoint_normalizer(start, data)
        session = build(recipe, environment, data, source=source, run_dir=run_dir, model=model, normalizer=normalizer)
        if start is not None:
            restore(session, start, resume=resume_from is not None)
        if auto and resume and session.start_step >= session.total_steps:
            return Outcome(run_dir, "already done", None)
        if resume_from is not None and session.start_step >= session.total_steps:
            raise UserError(
                f"{run_dir}: has already trained {session.start_step} of {session.total_steps} updates; "
                "raise train.steps or train.epochs to go on"
            )
        # One rank clears and writes, when all have read what they start from (--init-from may lie in there).
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            lock.take(wait=0)
            write_run_dir(run_dir, recipe, fresh=resume_from is None)
            drop_later_snapshots(run_dir, session.start_step)
        accelerator.wait_for_everyone()
        with _listening(session, listeners) as emit, _stop_signals() as stop:
            for notice in session.notices:
                emit(Notice(notice))
            deadline = _deadline(started, recipe.train.max_hours)
            stopped = run(session, emit, lambda: stop.number or (OUT_OF_TIME if time.monotonic() > deadline else GO_ON))
        session.pairing.close()
        session.batches.close()
        _release(session)
        if stopped in (GO_ON, OUT_OF_TIME):
            return Outcome(run_dir, "done" if stopped == GO_ON else "out of time", None)
        return Outcome(run_dir, "interrupted", stopped)


def _deadline(started: float, max_hours: float | None) -> float:
    """When to stop, on time.monotonic()'s clock, such that the last save is done before `max_hours` are over."""
    if max_hours is None:
        return math.inf
    return started + 3600 * max_hours - min(RESERVE, 360 * max_hours)


def _release(session: Session) -> None:
    """Take off what accelerate put into the module itself (autocast, its mark): the user's own may be trained again.

    Where a copy of that was sharded, it gets the copy's weights. A collective then.
    """
    session.environment.accelerator.unwrap_model(session.wrapped, keep_fp32_wrapper=False)
    session.model.__dict__.pop("_is_accelerate_prepared", None)
    if session.given is not None and session.sharded:
        session.given.load_state_dict(full_tensors(session.model.state_dict(), everywhere=True))
        session.given.to(session.device)


@contextlib.contextmanager
def _listening(session: Session, listeners: Callable[[], Sequence[Listener]]) -> Iterator[Callable[[Event], None]]:
    """Yields `emit`: to metrics.jsonl, trackers and the caller's listeners on the main process, to nobody elsewhere."""
    if not session.is_main:
        yield lambda event: None
        return
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(MetricsFile(session.run_dir / METRICS, session.start_step))
        hearing: list[Listener] = [metrics]
        if session.recipe.track.wandb:
            hearing.append(stack.enter_context(WandbTracker(session.recipe, session.run_dir, session.start_step)))
        hearing += [stack.enter_context(listener) for listener in listeners()]

        told = False

        def emit(event: Event) -> None:
            nonlocal told
            for listener in hearing:
                listener(event)
            if metrics.trouble is not None and not told:
                told = True
                reason = metrics.trouble.strerror
                emit(Notice(f"{metrics.path}: cannot be written ({reason}); its lines are kept until it can be"))
            told = metrics.trouble is not None

        yield emit


@dataclasses.dataclass
class _Stop:
    number: int = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT, SIGTERM and SIGUSR1 ask for a stop at the next update's end; a second SIGINT leaves at once."""
    stop = _Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = stop.number or number

    earlier = {}
    with contextlib.suppress(ValueError):  # not the main thread: whoever runs us there keeps the signals
        earlier = {number: signal.signal(number, ask) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
