"""From a recipe to a finished run: join the processes, build or restore everything, run the loop, clean up."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from flowkit.checkpoint import METRICS, find_checkpoint, folders_of, list_checkpoints, verify_weights
from flowkit.checkpoint.resume import check_numerics, checkpoint_normalizer, recipe_changes, restore
from flowkit.checkpoint.run_dir import HANDOVER, RunLock, beginning, open_run_dir, saved_precision, what_is_kept
from flowkit.checkpoint.saving import drop_later_snapshots
from flowkit.data.dataset import Dataset
from flowkit.data_source import open_data, with_split
from flowkit.distributed import environment as environments
from flowkit.distributed.agreement import GO_ON, OUT_OF_TIME, reason_words
from flowkit.distributed.launcher import end_with_launcher
from flowkit.distributed.sharding import full_tensors
from flowkit.errors import Interrupted, UserError
from flowkit.events import Event, Listener, Notice
from flowkit.training.loop import run
from flowkit.training.provenance import record_session
from flowkit.training.session import Session, build, count_parameters
from flowkit.training.trackers import MetricsFile, Tracker, check_trackers

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
SMALL = 100_000  # parameters; a smaller network trains faster on one thread
RESERVE = 120.0  # seconds of train.max_hours reserved for the last save, at most a tenth of it


@dataclasses.dataclass(frozen=True)
class Outcome:
    run_dir: Path
    reason: str  # "done" | "already done" | "interrupted" | "out of time"
    signal: int | None  # what interrupted it, on any process


def train(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    resume: bool | Literal["auto"] = False,
    allow_changes: bool = False,
    overwrite: bool = False,
    init_from: Path | str | None = None,
    run_dir: Path | None = None,
    listeners: Callable[[], Sequence[Listener]] = tuple,
) -> Outcome:
    """Train what the recipe describes, or the given module on the given rows. Called with the same arguments on every process.

    resume: "auto" resumes if the run has a checkpoint, and starts it otherwise.
    run_dir: the run directory, if it is not the recipe's (the run was moved, or this is another working directory).
    listeners: called on the main process only, just before the run begins. Raises UserError before anything of an earlier run
    is touched.
    """
    end_with_launcher()
    if resume is True and init_from is not None:
        raise UserError(
            "--resume and --init-from are mutually exclusive: a resumed run continues from its own checkpoint"
        )
    started, auto = time.monotonic(), resume == "auto"
    here, run_dir = run_dir is None, run_dir or recipe.run.directory
    folders = folders_of(run_dir, recipe.to_dict())
    if here:
        folders = (Path(), *folders)
    recipe = environments.with_precision(recipe, saved_precision(run_dir) if resume else None)
    with environments.joined(recipe) as environment, RunLock(run_dir) as lock:
        accelerator = environment.accelerator
        start = None
        if resume:
            if accelerator.is_main_process and run_dir.is_dir():
                lock.take(wait=HANDOVER)
            accelerator.wait_for_everyone()
        if auto:
            resume = bool(list_checkpoints(run_dir))
            # A run without a checkpoint has nothing to lose. A folder that is not a run is still refused.
            overwrite = overwrite or not resume
            init_from = None if resume else init_from  # a resumed run already began with those weights
        if accelerator.is_main_process or resume:
            start = open_run_dir(run_dir, resume=bool(resume), overwrite=overwrite)
        check_module(recipe, model)
        if accelerator.is_main_process:
            check_trackers(recipe)
        source = recipe.data.source if data is None else "data given from Python"
        if data is None:
            data = open_data(recipe, folders)
        else:
            data = with_split(data, recipe.data.val_fraction, recipe.data.subset, recipe.data.seed, source)
        resumed = start is not None
        if start is not None:
            if not allow_changes:
                check_numerics(run_dir, start)
            changes = recipe_changes(recipe, start)
            if changes and not allow_changes:
                raise UserError(
                    f"{run_dir}: the recipe has changed since this run began: {'; '.join(changes)}. Undo the changes, "
                    "or resume anyway with --allow-changes"
                )
        elif init_from is not None:
            start = find_checkpoint(init_from, check=lambda files: verify_weights(files, "ema"))
        normalizer = None if start is None else checkpoint_normalizer(start, data)
        session = build(recipe, environment, data, source=source, run_dir=run_dir, model=model, normalizer=normalizer,
                        folders=folders)  # fmt: skip
        if start is not None:
            restore(session, start, resume=resumed)
        if auto and resume and session.start_step >= session.total_steps:
            return Outcome(run_dir, "already done", None)
        if resumed and session.start_step >= session.total_steps:
            raise UserError(
                f"{run_dir}: this run has already trained {session.start_step} of {session.total_steps} updates; "
                "raise train.steps or train.epochs to continue"
            )
        # One rank clears and writes, after all have read what they start from: --init-from may be in there.
        accelerator.wait_for_everyone()
        with contextlib.ExitStack() as stack:
            begun = lambda: None  # noqa: E731
            if accelerator.is_main_process:
                lock.take(wait=0)
                begun = stack.enter_context(beginning(run_dir, recipe, fresh=not resumed))
                drop_later_snapshots(run_dir, session.start_step)
                record_session(
                    run_dir, session.start_step, device=environment.device_name(), processes=environment.world_size
                )
            accelerator.wait_for_everyone()
            emit = stack.enter_context(_listening(session, listeners))
            stop = stack.enter_context(_stop_signals(session, emit))
            for notice in session.notices:
                emit(Notice(notice))
            if start is not None and start.notice:
                emit(Notice(start.notice, urgent=True))
            deadline = _deadline(started, recipe.train.max_hours)

            def asked() -> int:
                begun()  # the first update is done
                return stop.number or (OUT_OF_TIME if time.monotonic() > deadline else GO_ON)

            with chosen_threads(session):
                stopped = run(session, emit, asked)
            begun()
        session.pairing.close()
        session.batches.close()
        _release(session)
        return Outcome(run_dir, reason_words(stopped), None if stopped in (GO_ON, OUT_OF_TIME) else stopped)


def check_module(recipe: Recipe, model: nn.Module | None) -> None:
    """Raise UserError for a recipe that needs a module from Python, if there is none."""
    if recipe.model.arch == "custom" and model is None:
        raise UserError('model.arch: "custom" needs a module, given to flowkit.train(recipe, model=...) from Python')


@contextlib.contextmanager
def chosen_threads(session: Session) -> Iterator[None]:
    """Set the CPU threads that the recipe asks for, and restore the earlier number.

    A small network is faster on one: its operations are shorter than it takes threads to meet. OMP_NUM_THREADS overrides "auto".
    """
    before, count = torch.get_num_threads(), session.recipe.run.threads
    if count == "auto":
        alone = session.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ
        count = 1 if alone and count_parameters(session.model) < SMALL else before
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _deadline(started: float, max_hours: float | None) -> float:
    """Return when to stop, on time.monotonic()'s clock, so that the last save is done within `max_hours`."""
    if max_hours is None:
        return math.inf
    return started + 3600 * max_hours - min(RESERVE, 360 * max_hours)


def _release(session: Session) -> None:
    """Undo what accelerate did to the module (autocast, its mark), so that a user's own module can be trained again.

    If a copy of it was sharded, load the copy's weights; then a collective.
    """
    session.environment.accelerator.unwrap_model(session.wrapped, keep_fp32_wrapper=False)
    session.model.__dict__.pop("_is_accelerate_prepared", None)
    if session.given is not None and session.sharded:
        session.given.load_state_dict(full_tensors(session.model.state_dict(), everywhere=True))
        session.given.to(session.device)


@contextlib.contextmanager
def _listening(session: Session, listeners: Callable[[], Sequence[Listener]]) -> Iterator[Callable[[Event], None]]:
    """Yield `emit`, which sends events to metrics.jsonl, trackers and listeners. On other processes it does nothing."""
    if not session.is_main:
        yield lambda event: None
        return
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(MetricsFile(session.run_dir / METRICS, session.start_step))
        trackers = [
            stack.enter_context(Tracker(name, session.recipe, session.run_dir, session.start_step))
            for name in session.recipe.track.names
        ]
        others = [stack.enter_context(listener) for listener in listeners()]
        told: set[int] = set()  # listeners whose trouble was reported

        def emit(event: Event) -> None:
            for listener in (metrics, *trackers, *others):
                listener(event)
            for number, listener in enumerate((metrics, *trackers)):
                if listener.trouble is None:
                    told.discard(number)
                elif number not in told:
                    told.add(number)
                    emit(Notice(listener.trouble))

        yield emit


@dataclasses.dataclass
class _Stop:
    number: int = 0


@contextlib.contextmanager
def _stop_signals(session: Session, emit: Callable[[Event], None]) -> Iterator[_Stop]:
    """On SIGINT, SIGTERM and SIGUSR1, stop after the current update. A second SIGINT quits at once."""
    stop = _Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.number and number == signal.SIGINT:
            raise Interrupted(what_is_kept(session.run_dir))
        if not stop.number:
            again = "; Ctrl-C again quits at once" if number == signal.SIGINT else ""
            said = Notice(f"{signal.Signals(number).name}: finishing this update, then saving a checkpoint{again}")
            # From a thread: the interrupted code may hold the locks that emitting takes.
            threading.Thread(target=emit, args=(said,), daemon=True).start()
        stop.number = stop.number or number

    earlier = {}
    with contextlib.suppress(ValueError):  # not the main thread, where signals cannot be handled
        earlier = {number: signal.signal(number, ask) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
