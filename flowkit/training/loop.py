"""The loop. It knows rows, labels, conditions and a flow; what a row means is the domain's business."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.data.keys import key
from flowkit.events import Event, Finished, Logged, Notice, Saved, Stepped, Validated
from flowkit.flow.times import stratify
from flowkit.models.calls import call_model
from flowkit.training.batches import Rows
from flowkit.training.checkpoints import save_checkpoint
from flowkit.training.draws import seed_modules
from flowkit.training.mean_flow import Spans, draw_intervals, mean_flow_loss, spans_of
from flowkit.training.meters import Meters, Stopwatch, memory_bytes
from flowkit.training.nonfinite import give_up
from flowkit.training.preview import Sampler
from flowkit.training.session import Session
from flowkit.training.snapshots import save_snapshot

Emit = Callable[[Event], None]
SPIKE = 5.0  # times the median mean loss of the last log steps
LOOKS_BACK = 20  # log steps


@dataclass(frozen=True)
class Intervals:
    """Every so many updates; 0 is never."""

    log: int
    validate: int
    sample: int
    save: int
    snapshot: int  # of the power-function averages


def run(session: Session, emit: Emit, stop_requested: Callable[[], bool] = lambda: False) -> str:
    """Train from `session.start_step` to the end. Returns "done", or "interrupted" after a stop was requested and saved."""
    recipe, accelerator = session.recipe, session.environment.accelerator
    per_epoch = session.steps_per_epoch
    every = Intervals(
        recipe.train.log_every.steps(per_epoch), recipe.train.val_every.steps(per_epoch),
        recipe.sample.every.steps(per_epoch), recipe.train.save_every.steps(per_epoch),
        recipe.ema.snapshot_every.steps(per_epoch),
    )  # fmt: skip
    meters, watch, started, step = Meters(), Stopwatch(), time.perf_counter(), session.start_step
    progress = _Progress(session, watch)
    emit(session.announce())
    sampler = Sampler(session) if session.is_main and every.sample else None
    if sampler is not None and sampler.notice:
        emit(Notice(sampler.notice))
    _discarded_backward(session)
    reason = "done"
    for update in range(session.start_step, session.total_steps):
        for group in session.optimizer.param_groups:
            group["lr"] = session.rate(update)
        skipped = one_update(session, update, meters)
        step, last = update + 1, update + 1 == session.total_steps
        if session.ema is not None:
            session.ema.follow(step, skipped)
        emit(Stepped(step))

        stopping = stop_requested() and session.layout.world_size == 1
        if step % every.log == 0 or last:
            # Several processes agree to stop where they meet anyway: in the log step's reduction.
            means, stops = meters.means(stop=stop_requested())
            stopping = stopping or stops
            streak, peak = round(means.pop("streak")), means.pop("peak")
            logged = progress.log(step, means)
            emit(logged)
            if spike := progress.spike(logged, peak):
                emit(Notice(spike))
            if recipe.train.max_skipped and streak >= recipe.train.max_skipped:
                give_up(session, step, streak)
        saving = stopping or _due(step, every.save, last)
        validating = bool(session.validator.count) and (
            _due(step, every.validate, last) or _due(step, every.save, last)
        )
        sampling = bool(every.sample) and _due(step, every.sample, last)
        snapping = bool(recipe.ema.power) and session.is_main and _due(step, every.snapshot, last)
        if saving or validating or sampling or snapping:
            with watch.held(session.device):
                validated = validate(session, step, saving=saving) if validating else None
                if validated is not None:
                    emit(validated)
                if sampler is not None and sampling:
                    emit(sampler(step))
                if snapping and session.ema is not None:
                    save_snapshot(session.run_dir, step, session.ema.power_modules(), recipe.ema.snapshot_dtype)
                if session.is_main and saving:
                    emit(save(session, step, validated))
                if validated is not None and validated.best:
                    session.best = (step, validated.loss)
        if stopping and not last:
            reason = "interrupted"
            break
    accelerator.wait_for_everyone()
    emit(Finished(step, time.perf_counter() - started, session.run_dir, reason))
    return reason


def one_update(session: Session, update: int, meters: Meters) -> Tensor:
    """One optimizer update over the global batch: this rank's micro-steps, one reduction, clipping, AdamW.

    Returns () 1.0 where it was skipped, on the device.
    """
    terms = accumulate(session, update)
    norm, skipped = step_optimizer(session)
    # Means are those of the updates that were made: one overflow, usual in fp16, would hide all the others.
    left_out = skipped.bool()
    meters.add(**{name: value.masked_fill(left_out, 0) for name, value in {**terms, "grad_norm": norm}.items()})
    meters.add(skipped=skipped)
    meters.follow(skipped, terms["loss"])
    meters.tick()
    return skipped


def accumulate(session: Session, update: int) -> dict[str, Tensor]:
    """Gradients of the update's global batch, reduced over the processes. Returns this rank's mean losses, by their names."""
    accumulation, means = session.layout.accumulation, {}
    draw = Drawing(session, update)
    for micro_step in range(accumulation):
        seed_modules(session.device, key(session.recipe.run.seed, "dropout", update, micro_step, session.layout.rank))
        # Gradients are reduced once an update: with the last micro-step's.
        last = micro_step == accumulation - 1
        with nullcontext() if last else session.environment.accelerator.no_sync(session.wrapped):
            loss, terms = draw.loss(micro_step)
            backward(session, loss / accumulation if accumulation > 1 else loss)
        for name, term in terms.items():
            term = term / accumulation if accumulation > 1 else term
            means[name] = means[name] + term if name in means else term
    return means


class Drawing:
    """All that is drawn for one update, for the whole global batch, and this rank's micro-batches of it."""

    def __init__(self, session: Session, update: int):
        self.session = session
        self.rows = session.batches.of(update)
        shape = (session.layout.batch_size, *self.rows.x.shape[1:])
        self.noise = session.pairing.noise(update)
        self.times, self.lengths = _times(session, update), None
        if session.mean_flow is not None:
            self.times, self.lengths = draw_intervals(session, update, self.times)
        stochastic = session.objective.path.stochastic
        self.eps = session.draws.normal("bridge", update, shape) if stochastic else None
        self.dropped = None
        if self.rows.class_label is not None or self.rows.condition is not None:
            self.dropped = session.draws.uniform("drop", update, shape[:1]) < session.recipe.flow.cond_drop

    def loss(self, micro_step: int, start: int = 0, stop: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`flow_loss` of rows `start` to `stop` of this rank's micro-batch; of all of it by default."""
        session, micro = self.session, self.session.layout.micro
        stop, first = micro if stop is None else stop, session.layout.start(micro_step)
        places = slice(first + start, first + stop)
        mine = self.rows.slice(micro_step * micro + start, micro_step * micro + stop)
        cut = lambda tensor: None if tensor is None else tensor[places]  # noqa: E731
        spans = None if self.lengths is None else spans_of(session, self.lengths, places)
        return flow_loss(session, mine, self.noise[places], self.times[places], cut(self.dropped), cut(self.eps), spans)


def _times(session: Session, update: int) -> Tensor:
    """The times (B,) of the global batch."""
    shape = (session.layout.batch_size,)
    uniform = session.draws.uniform("times", update, shape)
    if session.recipe.flow.stratified:
        uniform = stratify(uniform, session.draws.uniform("strata", update, shape).argsort())
    return session.times(uniform)


def flow_loss(
    session: Session, rows: Rows, x0: Tensor, t: Tensor, dropped: Tensor | None, eps: Tensor | None,
    spans: Spans | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """(mean loss to descend, detached terms to log) of one micro-batch: x0, eps (b, ...), t (b,), dropped (b,) bool."""
    if spans is not None:
        return mean_flow_loss(session, rows, x0, t, dropped, eps, spans)
    objective, x1 = session.objective, rows.x
    x_t = objective.path.interpolate(x0, x1, t, eps)
    output = call_model(session.wrapped, x_t, t, rows.class_label, rows.condition, dropped)
    loss = objective.loss(output, x0, x1, t, eps).mean()
    terms = {"loss": loss.detach()}
    if session.extra_losses:
        # In the domain's own units, and weighted by t: near the noise the predicted sketch is a blur with no strokes.
        predicted = session.normalizer.denormalize(objective.to_data(output, x_t, t))
        for name, (weight, measure) in session.extra_losses.items():
            values = measure(predicted)
            terms[name] = values.detach().mean()
            loss = loss + weight * (t * values).mean()
    return loss, terms


def backward(session: Session, loss: Tensor) -> None:
    """Gradients of a finite loss; of any other NaN, so that every process learns of it with the gradients.

    A loss may overflow where its gradient, half as steep, does not. (accelerate's own `backward` would divide by its
    accumulation steps once more, which takes as long as a small layer.)
    """
    scaler, value = session.environment.accelerator.scaler, loss.detach()
    (loss if scaler is None else scaler.scale(loss)).backward(1 + (value - value))


def step_optimizer(session: Session) -> tuple[Tensor, Tensor]:
    """Clip and apply the gradients: (gradient norm before clipping, 1.0 where the update skipped itself), on the device.

    After DDP's reduction the norm is the same on every rank, so all of them skip together, and nobody asks the device.
    """
    optimizer, scaler = session.optimizer, session.environment.accelerator.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in session.parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if session.recipe.optim.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(session.parameters, session.recipe.optim.max_grad_norm, norm)
    skipped = (~torch.isfinite(norm)).float()
    # Fused AdamW leaves parameters and moments alone where found_inf is 1; it is the hook GradScaler itself uses.
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    if scaler is not None:
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped


def validate(session: Session, step: int, *, saving: bool) -> Validated:
    """Validation loss of the EMA weights and of the raw ones; the best, if a checkpoint of it follows. A collective."""
    autocast = session.environment.accelerator.autocast
    raw = session.validator(session.model, autocast)
    smooth = raw if session.ema is None else session.validator(session.ema.module, autocast)
    best = saving and (session.best is None or smooth.loss < session.best[1])
    # The other averages where they are saved, so that one knows which of them to take; elsewhere they would only cost.
    others = list(session.ema.by_label.items())[1:] if session.ema is not None and saving else []
    losses = {label: session.validator(other.module, autocast).loss for label, other in others}
    gaussian = session.validator.gaussian_losses if session.is_main else {}
    return Validated(step, smooth.loss, raw.loss, smooth.zero_loss, smooth.bins, best, gaussian, losses)


def save(session: Session, step: int, validated: Validated | None) -> Saved:
    """Write a checkpoint; `best` moves to it when its validation loss is the lowest that was saved."""
    start = time.perf_counter()
    is_best, best = False, session.best
    losses: dict[str, Any] | None = None
    if validated is not None:
        is_best = validated.best
        best = (step, validated.loss) if is_best else best
        losses = {"loss": validated.loss, "raw_loss": validated.raw_loss, "zero_loss": validated.zero_loss}
        if validated.ema_losses:
            losses["ema_losses"] = validated.ema_losses
    scaler = session.environment.accelerator.scaler
    state = {"step": step, "best": best, "scaler": None if scaler is None else scaler.state_dict()}
    path = save_checkpoint(
        session.run_dir, step, model=session.model, averages={} if session.ema is None else session.ema.modules(),
        optimizer=session.optimizer, normalizer=session.normalizer.tensors(), sidecar=session.sidecar(step, losses),
        state=state, best=is_best, keep_last=session.recipe.train.keep_last,
    )  # fmt: skip
    return Saved(step, path, is_best, time.perf_counter() - start)


def _due(step: int, every: int, last: bool) -> bool:
    return last or bool(every and step % every == 0)


def _discarded_backward(session: Session) -> None:
    """DDP rebuilds its buckets after its first backward, which moves the last bit; so every start has one to throw away."""
    if session.layout.world_size == 1:
        return
    rows = session.batches.of(session.start_step).slice(0, session.layout.micro)
    t = torch.full((len(rows.x),), 0.5, device=session.device)
    dropped = torch.zeros(len(rows.x), dtype=torch.bool, device=session.device)
    loss, _ = flow_loss(session, rows, torch.zeros_like(rows.x), t, dropped, torch.zeros_like(rows.x))
    loss.backward()
    session.optimizer.zero_grad(set_to_none=True)


class _Progress:
    """Turns the meters' means into a `Logged` event: epoch, rates, time left."""

    def __init__(self, session: Session, watch: Stopwatch):
        self.session, self.watch = session, watch
        self.skipped = 0
        self.step, self.seconds = session.start_step, watch.seconds()
        self.first = self.step + 1  # update of those that the last log step was about
        self.losses: deque[float] = deque(maxlen=LOOKS_BACK)

    def log(self, step: int, means: dict[str, float]) -> Logged:
        session, seconds = self.session, self.watch.seconds()
        updates, passed = step - self.step, max(seconds - self.seconds, 1e-9)
        self.first, self.step, self.seconds = self.step + 1, step, seconds
        skipped = round(means.pop("skipped") * updates)
        self.skipped += skipped
        of_made = updates / (updates - skipped) if skipped < updates else math.nan
        means = {name: value * of_made for name, value in means.items()}
        ema = session.ema
        return Logged(
            step=step, epoch=step / session.steps_per_epoch, loss=means.pop("loss"), lr=session.rate(step - 1),
            grad_norm=means.pop("grad_norm"), ema_decay=0.0 if ema is None else ema.get_decay(step),
            rows_per_second=updates * session.layout.batch_size / passed,
            seconds_left=(session.total_steps - step) * passed / updates,
            memory_bytes=memory_bytes(session.device), skipped=self.skipped, terms=means,
        )  # fmt: skip

    def spike(self, logged: Logged, peak: float) -> str:
        """What to say where the largest loss of one update since the last log step stands out; "" where it does not."""
        usual = statistics.median(self.losses) if self.losses else math.inf
        self.losses.append(logged.loss)
        if not peak > SPIKE * usual:
            return ""
        return (
            f"loss spike: {peak:.4g} in one of the updates {self.first} to {logged.step}, beside {usual:.4g} (the median of the "
            "log steps before); if spikes come back, lower optim.lr or optim.max_grad_norm"
        )
