"""The training loop. It knows rows, labels, conditions and a flow; what a row means is up to the domain."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from flowkit.checkpoint.background import Saver
from flowkit.checkpoint.run_dir import write_end
from flowkit.checkpoint.saving import save_snapshot
from flowkit.device import held_exactly
from flowkit.distributed.agreement import GO_ON, reason_words
from flowkit.errors import UserError
from flowkit.events import Doing, Event, Finished, Logged, Notice, Stepped, Validated
from flowkit.flow.distillation import Distillation
from flowkit.training.capture import make_update
from flowkit.training.meters import Meters, Stopwatch, memory_bytes
from flowkit.training.nonfinite import give_up
from flowkit.training.preview import Sampler
from flowkit.training.session import Session
from flowkit.training.step import UpdateInputs, one_update

Emit = Callable[[Event], None]
SPIKE = 5.0  # times the median of the mean losses of the last log steps
LOOKS_BACK = 20  # in log steps


def run(session: Session, emit: Emit, asked: Callable[[], int] = lambda: GO_ON) -> int:
    """Train from `session.start_step` to the end, or until `asked` returns a reason to stop on any process; then save.

    Return GO_ON if the run reached its end, else the reason for stopping.
    """
    recipe, accelerator = session.recipe, session.environment.accelerator
    log_every, val_every, save_every, sample_every, snapshot_every = (  # in updates; 0 is never
        interval.steps(session.steps_per_epoch)
        for interval in (recipe.train.log_every, recipe.train.val_every, recipe.train.save_every,
                         recipe.sample.every, recipe.ema.snapshot_every)
    )  # fmt: skip
    meters, watch, started, step = Meters(), Stopwatch(), time.perf_counter(), session.start_step
    if session.meters is not None:
        meters.restore(session.meters, session.layout.rank, session.device)
    progress, saver, agreement = _Progress(session, watch), Saver(session, emit), session.environment.agreement
    emit(session.announce())
    # A sharded model needs all ranks for a forward pass; otherwise the main rank samples alone.
    sampler = Sampler(session) if sample_every and (session.is_main or session.sharded) else None
    if sampler is not None and sampler.notice:
        emit(Notice(sampler.notice))
    _discarded_backward(session)
    reason = GO_ON

    @contextmanager
    def compiling() -> Iterator[None]:
        emit(Doing("compiling"))
        try:
            with watch.held(session.device):
                yield
        finally:
            emit(Doing(""))

    perform = make_update(session, meters, eager_update(session, meters), lambda text: emit(Notice(text)), compiling)
    for update in range(session.start_step, session.total_steps):
        perform(update)
        step, last = update + 1, update + 1 == session.total_steps
        emit(Stepped(step))
        saver.tell()

        reason = GO_ON if last else agreement.of(asked())
        if step % log_every == 0 or last:
            means, updates = meters.means()
            streak, peak = round(means.pop("streak")), means.pop("peak")
            logged = progress.log(step, means, updates)
            emit(logged)
            if spike := progress.spike(logged, peak):
                emit(Notice(spike))
            if recipe.train.max_skipped and streak >= recipe.train.max_skipped:
                give_up(session, step, streak)
        # A stop only adds a save. It must not validate, or the best checkpoint would depend on it.
        planned = _due(step, save_every, last)
        saving = planned or reason != GO_ON
        validating = bool(session.validator.count) and (planned or _due(step, val_every, last))
        sampling = bool(sample_every) and _due(step, sample_every, last)
        snapping = bool(recipe.ema.power) and _due(step, snapshot_every, last)
        if saving or validating or sampling or snapping:
            with watch.held(session.device):
                if saving:
                    emit(Doing("saving"))
                    saver.settle()  # first: which checkpoint is the best depends on it
                if validating:
                    emit(Doing("validating"))
                validated = validate(session, step, saving=planned) if validating else None
                if validated is not None:
                    emit(validated)
                if sampling:
                    emit(Doing("sampling"))
                if sampler is not None and sampling and (sampled := sampler(step)) is not None:
                    emit(sampled)
                if snapping and (trouble := _snapshot(session, step)):
                    emit(trouble)
                if saving:
                    saver.start(step, validated, meters, progress.skipped)
                emit(Doing(""))
        if reason != GO_ON:
            break
    emit(Doing("saving"))
    agreement.settle()
    saver.settle(last=True)
    accelerator.wait_for_everyone()
    if session.is_main:
        write_end(session.run_dir, step, reason_words(reason))
    emit(Finished(step, time.perf_counter() - started, session.run_dir, reason_words(reason)))
    return reason


def eager_update(session: Session, meters: Meters) -> Callable[[int], None]:
    """Return what does update `update` one operation at a time."""

    def run(update: int) -> None:
        for group in session.optimizer.param_groups:
            group["lr"] = held_exactly(session.lr(update), session.device)
        skipped = one_update(session, update, meters)
        if session.ema is not None:
            session.ema.update(update + 1, skipped)

    return run


def validate(session: Session, step: int, *, saving: bool) -> Validated:
    """Return the validation losses of the EMA and raw weights, and whether this is the best checkpoint. A collective."""
    autocast = session.environment.accelerator.autocast
    raw = session.validator(session.model, autocast)
    smooth = raw if session.ema is None else session.validator(session.ema.module, autocast)
    best = saving and (session.best is None or smooth.loss < session.best[1])
    # Validate the other averages only when they are saved.
    others = list(session.ema.by_label.items())[1:] if session.ema is not None and saving else []
    losses = {label: session.validator(other.module, autocast).loss for label, other in others}
    gaussian = session.validator.gaussian_losses if session.is_main else {}
    one_step = None
    if session.flow.objective.averages:
        smooth_model = session.model if session.ema is None else session.ema.module
        objective, teacher = session.flow.objective, session.teacher
        field = (
            partial(objective.field, teacher) if isinstance(objective, Distillation) and teacher is not None else None
        )
        one_step = session.validator.one_step_error(smooth_model, autocast, field)
    return Validated(step, smooth.loss, raw.loss, smooth.zero_loss, smooth.bins, best, gaussian, losses, one_step)


def _snapshot(session: Session, step: int) -> Notice | None:
    """Save the power-function averages. A failure returns a Notice and does not end training.

    A collective if the model is sharded.
    """
    assert session.ema is not None
    averages = session.ema.power_tensors()
    if not session.is_main:
        return None
    try:
        save_snapshot(session.run_dir, step, averages, session.ema.averaged, session.recipe.ema.snapshot_dtype)
    except UserError as error:
        return Notice(f"{error}. Training continues; the next snapshot is saved when it is due")
    return None


def _due(step: int, every: int, last: bool) -> bool:
    return last or bool(every and step % every == 0)


def _discarded_backward(session: Session) -> None:
    """Run one backward pass and discard it. DDP rebuilds its buckets after the first one, which changes the last bits."""
    if session.layout.world_size == 1:
        return
    loss, _ = UpdateInputs(session, session.start_step).loss(
        0
    )  # with all inputs of an update, so that DDP sees all parameters
    loss.backward()
    session.optimizer.zero_grad(set_to_none=True)


class _Progress:
    """Turns the meters' means into a `Logged` event: epoch, speed, time left."""

    def __init__(self, session: Session, watch: Stopwatch):
        self.session, self.watch = session, watch
        self.skipped = session.skipped
        self.step, self.seconds = session.start_step, watch.seconds()
        self.first = self.step + 1  # first update since the last log step
        self.losses: deque[float] = deque(maxlen=LOOKS_BACK)

    def log(self, step: int, means: dict[str, float], summed: int) -> Logged:
        """means: over the last `summed` updates, some of which may be from before a resume."""
        session, seconds = self.session, self.watch.seconds()
        updates, passed = step - self.step, max(seconds - self.seconds, 1e-9)
        self.first, self.step, self.seconds = self.step + 1, step, seconds
        skipped = round(means.pop("skipped") * summed)
        self.skipped += skipped
        of_made = summed / (summed - skipped) if skipped < summed else math.nan
        means = {name: value * of_made for name, value in means.items()}
        ema = session.ema
        return Logged(
            step=step, epoch=step / session.steps_per_epoch, loss=means.pop("loss"), lr=session.lr(step - 1),
            grad_norm=means.pop("grad_norm"), ema_decay=0.0 if ema is None else ema.get_decay(step),
            rows_per_second=updates * session.layout.batch_size / passed,
            seconds_left=(session.total_steps - step) * passed / updates,
            memory_bytes=memory_bytes(session.device), skipped=self.skipped, terms=means,
        )  # fmt: skip

    def spike(self, logged: Logged, peak: float) -> str:
        """Return a warning if the largest loss of one update since the last log step is unusual, else ""."""
        usual = statistics.median(self.losses) if self.losses else math.inf
        self.losses.append(logged.loss)
        if not peak > SPIKE * usual:
            return ""
        return (
            f"loss spike: {peak:.4g} in one of the updates {self.first} to {logged.step}; the median of the log steps before is "
            f"{usual:.4g}. If spikes recur, lower optim.lr or optim.max_grad_norm"
        )
