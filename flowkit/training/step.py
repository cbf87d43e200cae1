"""One update: its random inputs for the global batch, this rank's micro-batches, their losses, and the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.conditions import KINDS
from flowkit.device import host_may_read
from flowkit.flow.given import rates, shown_tokens
from flowkit.flow.objective import Pairs, Spans
from flowkit.flow.times import stratify
from flowkit.recipe.flow import drop_rates
from flowkit.rng import key, seed_modules
from flowkit.training.batches import Rows
from flowkit.training.meters import Meters
from flowkit.training.optimizer import step_optimizer
from flowkit.training.session import Session


def one_update(session: Session, update: int, meters: Meters) -> Tensor:
    """Run one optimizer update over the global batch: this rank's micro-steps, one reduction, clipping, AdamW.

    Return () 1.0 if it was skipped, on the device.
    """
    terms = accumulate(session, update)
    norm, skipped = step_optimizer(session)
    # Skipped updates are left out of the means: overflows are usual in fp16, and one would make the means NaN.
    meters.update(skipped, **terms, grad_norm=norm)
    return skipped


def accumulate(session: Session, update: int) -> dict[str, Tensor]:
    """Accumulate the gradients of the global batch, reduced over the processes. Return this rank's mean losses by name."""
    accumulation, means = session.layout.accumulation, {}
    inputs = UpdateInputs(session, update)
    for micro_step in range(accumulation):
        seed_modules(session.device, key(session.recipe.run.seed, "dropout", update, micro_step, session.layout.rank))
        # Reduce gradients once per update, with the last micro-step. A sharded model reduces them with every micro-step:
        # keeping whole gradients would take the memory that sharding saves.
        last = micro_step == accumulation - 1
        with nullcontext() if last else session.environment.accelerator.no_sync(session.wrapped):
            terms = descend(session, inputs.micro(micro_step))
        for name, term in terms.items():
            means[name] = means[name] + term if name in means else term
    return means


class Micro(NamedTuple):
    """What the loss of b rows depends on, besides the weights. A recorded update reads it from fixed memory."""

    rows: Rows | Tensor  # or the numbers (b,) of resident rows, still to be gathered
    x0: Tensor  # (b, ...)
    t: Tensor  # (b,)
    eps: Tensor | None  # (b, ...)
    spans: Spans | None
    dropped: Tensor | None  # (b,) or (b, 4) bool
    given: tuple[Tensor, ...] | None  # as `draw_given`
    augment: Tensor | None  # (b, draws) uniform; None for rows that stay as they are

    def map(self, change: Callable[[Tensor], Tensor]) -> Micro:
        """Apply `change` to each tensor on the device."""
        rows, optional = self.rows, {"eps": self.eps, "dropped": self.dropped, "augment": self.augment}
        return Micro(
            rows=change(rows) if isinstance(rows, Tensor) else Rows(change(rows.x), rows.conditions.map(change)),
            x0=change(self.x0), t=change(self.t),
            spans=None if self.spans is None else self.spans.map(change),
            given=None if self.given is None else tuple(map(change, self.given)),
            **{name: None if tensor is None else change(tensor) for name, tensor in optional.items()},
        )  # fmt: skip


class UpdateInputs:
    """The random inputs of one update for the whole global batch, and the losses of this rank's micro-batches.

    ready: gather and augment the rows here; otherwise `micro_loss` does.
    """

    def __init__(self, session: Session, update: int, *, ready: bool = True):
        self.session = session
        self.rows = (
            session.batches.picked(update) if session.batches.resident and not ready else session.batches.of(update)
        )
        self.augment = draw_augment(session, update)
        if ready and self.augment is not None:
            assert isinstance(self.rows, Rows)
            self.rows, self.augment = augmented(session, self.rows, self.augment), None
        self.noise = session.pairing.noise(update)
        self.times, self.spans = session.flow.objective.spans(_times(session, update), UpdateDraws(session, update))
        stochastic = session.objective.path.stochastic
        self.eps = session.draws.normal("bridge", update, tuple(self.noise.shape)) if stochastic else None
        self.dropped = draw_dropped(session, update)
        self.given = draw_given(session, update)

    def loss(self, micro_step: int, start: int = 0, stop: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `flow_loss` for rows `start` to `stop` of this rank's micro-batch, by default all of it."""
        return micro_loss(self.session, self.micro(micro_step, start, stop))

    def micro(self, micro_step: int, start: int = 0, stop: int | None = None) -> Micro:
        """Return the inputs of rows `start` to `stop` of this rank's micro-batch, by default all of it."""
        session, micro = self.session, self.session.layout.micro
        stop, first = micro if stop is None else stop, session.layout.start(micro_step)
        indices, mine = slice(first + start, first + stop), slice(micro_step * micro + start, micro_step * micro + stop)
        eps, dropped, augment = self.eps, self.dropped, self.augment
        spans = None if self.spans is None else self.spans.slice(indices).put(fixed=not host_may_read(session.device))
        return Micro(
            rows=self.rows[mine] if isinstance(self.rows, Tensor) else self.rows.slice(mine.start, mine.stop),
            x0=self.noise[indices], t=self.times[indices], eps=None if eps is None else eps[indices], spans=spans,
            dropped=None if dropped is None else dropped[indices], augment=None if augment is None else augment[mine],
            given=None if self.given is None else tuple(uniform[indices] for uniform in self.given),
        )  # fmt: skip


def descend(session: Session, micro: Micro) -> dict[str, Tensor]:
    """Add the gradients of one micro-batch. Return its share of the update's mean losses, by name."""
    accumulation = session.layout.accumulation
    loss, terms = micro_loss(session, micro)
    if accumulation == 1:
        backward(session, loss)
        return terms
    backward(session, loss / accumulation)
    return {name: term / accumulation for name, term in terms.items()}


def micro_loss(session: Session, micro: Micro) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `flow_loss` of a micro-batch."""
    rows = session.batches.pick(micro.rows) if isinstance(micro.rows, Tensor) else micro.rows
    if micro.augment is not None:
        rows = augmented(session, rows, micro.augment)
    if micro.dropped is not None:
        rows = replace(rows, conditions=rows.conditions.drop(micro.dropped))
    if micro.given is not None:
        given = shown_tokens(session.domain.parts(rows.x), rates(session.flow.given), *micro.given)
        rows = replace(rows, conditions=replace(rows.conditions, given=given))
    return flow_loss(session, rows, micro.x0, micro.t, micro.eps, micro.spans)


@dataclass(frozen=True)
class UpdateDraws:
    """The random draws that an objective may use in one update."""

    session: Session
    update: int

    def times(self, purpose: str) -> Tensor:
        return self.session.flow.times(self.uniform(purpose))

    def uniform(self, purpose: str) -> Tensor:
        return self.session.draws.uniform(purpose, self.update, (self.session.layout.batch_size,))

    def number(self, purpose: str) -> int:
        return key(self.session.recipe.run.seed, purpose, self.update)


def _times(session: Session, update: int) -> Tensor:
    """Draw the times (B,) of the global batch."""
    shape = (session.layout.batch_size,)
    uniform = session.draws.uniform("times", update, shape)
    if session.recipe.flow.stratified:
        uniform = stratify(uniform, session.draws.uniform("strata", update, shape).argsort())
    return session.flow.times(uniform)


def draw_dropped(session: Session, update: int) -> Tensor | None:
    """Draw which conditions of the global batch are dropped: (B,) bool; None without conditions.

    With several kinds (B, 4) bool: each must also be dropped alone, for a model to learn what the others mean. With probability
    `cond_drop` all conditions of a row are dropped; else each one with that probability, or with those of a table. A user's own
    module takes (B,), unless `cond_drop` is a table.
    """
    cond_drop, kinds = session.recipe.flow.cond_drop, session.data.condition_kinds
    if not kinds:
        return None
    drops = lambda what, rate: session.draws.uniform(what, update, (session.layout.batch_size,)) < rate  # noqa: E731
    rates = drop_rates(cond_drop, kinds)
    everything = drops("drop", rates.pop("all"))
    if not rates or (session.given is not None and not isinstance(cond_drop, dict)):
        return everything
    # A class was called a label when these draws were named.
    dropped = {
        kind: everything | drops(f"drop {'label' if kind == 'class' else kind}", rate) for kind, rate in rates.items()
    }
    if len(kinds) == 1:
        return dropped[kinds[0]]
    return torch.stack([dropped.get(kind, everything) for kind in KINDS], dim=1)


def draw_given(session: Session, update: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Draw what `shown_tokens` needs for the global batch: (B,), (B,), (B, S); None if nothing is shown."""
    if not session.flow.completes:
        return None
    size, tokens = session.layout.batch_size, session.batches.data.x.shape[1]
    shapes = {"given": (size,), "given amount": (size,), "given parts": (size, tokens)}
    which, amount, each = (session.draws.uniform(what, update, shape) for what, shape in shapes.items())
    return which, amount, each


def draw_augment(session: Session, update: int) -> Tensor | None:
    """Draw what augments this rank's rows of an update, (b, draws) on [0, 1); None if nothing does.

    Whatever the number of processes, a row has the same draws.
    """
    if not session.recipe.data.augment:
        return None
    draws, layout = session.domain.augment_draws(session.data.x.shape[1:]), session.layout
    uniform = session.draws.uniform("augment", update, (layout.batch_size, draws))
    parts = [uniform[layout.start(m) : layout.start(m) + layout.micro] for m in range(layout.accumulation)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def augmented(session: Session, rows: Rows, uniform: Tensor) -> Rows:
    """Return rows augmented by uniform (b, draws)."""
    ranges, domain, normalizer = session.recipe.data.augment, session.domain, session.normalizer
    x, told = domain.augment(normalizer.denormalize(rows.x), ranges, uniform)
    changed = told.any(1).view(-1, *(1,) * (x.ndim - 1))  # other rows stay exactly as they are
    x = torch.where(changed, normalizer.normalize(x), rows.x)
    return Rows(x, replace(rows.conditions, augmented=told))


def flow_loss(
    session: Session, rows: Rows, x0: Tensor, t: Tensor, eps: Tensor | None, spans: Spans | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (mean loss to descend, detached terms to log) of one micro-batch: x0, eps (b, ...), t (b,)."""
    found = session.flow.objective.loss(
        Pairs(x0, rows.x, t, eps, rows.conditions, spans, *session.networks), session.objective
    )
    loss = found.descended.mean()
    terms = {"loss": loss.detach() if found.shown is found.descended else found.shown.detach().mean()}
    if session.aux_losses:
        assert found.data is not None, "checked when the recipe was read"
        # In the domain's units, and weighted by t: near the noise the predicted data is a blur.
        predicted, real = session.normalizer.denormalize(found.data()), session.normalizer.denormalize(rows.x)
        for name, (weight, measure) in session.aux_losses.items():
            values = measure(predicted, real)
            terms[name] = values.detach().mean()
            loss = loss + weight * (t * values).mean()
    return loss, terms


def backward(session: Session, loss: Tensor) -> None:
    """Compute the gradients of a finite loss; of any other loss NaN, which tells every process about it.

    A loss may overflow while its gradient does not. (accelerate's `backward` would divide by its accumulation steps once more,
    which takes as long as a small layer.)
    """
    scaler, value = session.environment.accelerator.scaler, loss.detach()
    finite = host_may_read(value.device) and math.isfinite(value)
    (loss if scaler is None else scaler.scale(loss)).backward(None if finite else 1 + (value - value))
