"""One update: what is drawn for the global batch, this rank's micro-batches of it, their losses, and the optimizer's step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowkit.conditions import KINDS
from flowkit.flow.objective import Pairs, Spans
from flowkit.flow.times import stratify
from flowkit.recipe.flow import drop_rates
from flowkit.rng import key, seed_modules
from flowkit.training.batches import Rows
from flowkit.training.meters import Meters
from flowkit.training.optimizer import step_optimizer
from flowkit.training.session import Session


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
    meters.update(skipped, terms["loss"])
    meters.tick()
    return skipped


def accumulate(session: Session, update: int) -> dict[str, Tensor]:
    """Gradients of the update's global batch, reduced over the processes. Returns this rank's mean losses, by their names."""
    accumulation, means = session.layout.accumulation, {}
    inputs = UpdateInputs(session, update)
    for micro_step in range(accumulation):
        seed_modules(session.device, key(session.recipe.run.seed, "dropout", update, micro_step, session.layout.rank))
        # Gradients are reduced once an update: with the last micro-step's. Those of a sharded model are with every
        # micro-step's (it has no `no_sync`): whole gradients, kept until the last, would take the memory that it saves.
        last = micro_step == accumulation - 1
        with nullcontext() if last else session.environment.accelerator.no_sync(session.wrapped):
            loss, terms = inputs.loss(micro_step)
            backward(session, loss / accumulation if accumulation > 1 else loss)
        for name, term in terms.items():
            term = term / accumulation if accumulation > 1 else term
            means[name] = means[name] + term if name in means else term
    return means


class UpdateInputs:
    """All that is drawn for one update, for the whole global batch, and this rank's micro-batches of it."""

    def __init__(self, session: Session, update: int):
        self.session = session
        self.rows = session.batches.of(update)
        shape = (session.layout.batch_size, *self.rows.x.shape[1:])
        self.noise = session.pairing.noise(update)
        self.times, self.spans = session.flow.objective.spans(_times(session, update), UpdateDraws(session, update))
        stochastic = session.objective.path.stochastic
        self.eps = session.draws.normal("bridge", update, shape) if stochastic else None
        self.dropped = draw_dropped(session, update)

    def loss(self, micro_step: int, start: int = 0, stop: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`flow_loss` of rows `start` to `stop` of this rank's micro-batch; of all of it by default."""
        session, micro = self.session, self.session.layout.micro
        stop, first = micro if stop is None else stop, session.layout.start(micro_step)
        indices = slice(first + start, first + stop)
        mine = self.rows.slice(micro_step * micro + start, micro_step * micro + stop)
        if self.dropped is not None:
            mine = replace(mine, conditions=mine.conditions.drop(self.dropped[indices]))
        eps = None if self.eps is None else self.eps[indices]
        spans = None if self.spans is None else self.spans.slice(indices)
        return flow_loss(session, mine, self.noise[indices], self.times[indices], eps, spans)


@dataclass(frozen=True)
class UpdateDraws:
    """What an objective may draw for one update."""

    session: Session
    update: int

    def times(self, purpose: str) -> Tensor:
        uniform = self.session.draws.uniform(purpose, self.update, (self.session.layout.batch_size,))
        return self.session.flow.times(uniform)

    def number(self, purpose: str) -> int:
        return key(self.session.recipe.run.seed, purpose, self.update)


def _times(session: Session, update: int) -> Tensor:
    """The times (B,) of the global batch."""
    shape = (session.layout.batch_size,)
    uniform = session.draws.uniform("times", update, shape)
    if session.recipe.flow.stratified:
        uniform = stratify(uniform, session.draws.uniform("strata", update, shape).argsort())
    return session.flow.times(uniform)


def draw_dropped(session: Session, update: int) -> Tensor | None:
    """Whose conditions are dropped, in the global batch: (B,) bool, None where there are none.

    With labels and conditions, (B, 2) bool: each is dropped alone, too, or what one of them means would not be learned. All
    of a row's are with probability `cond_drop`; else its label with that probability, and its condition with that
    probability; or with those of a table. A module of one's own takes (B,), unless there is a table.
    """
    cond_drop, kinds = session.recipe.flow.cond_drop, session.data.condition_kinds
    if not kinds:
        return None
    drops = lambda what, rate: session.draws.uniform(what, update, (session.layout.batch_size,)) < rate  # noqa: E731
    rates = drop_rates(cond_drop, kinds)
    everything = drops("drop", rates.pop("all"))
    if not rates or (session.given is not None and not isinstance(cond_drop, dict)):
        return everything
    dropped = {kind: everything | drops(f"drop {kind}", rate) for kind, rate in rates.items()}
    return dropped[kinds[0]] if len(kinds) == 1 else torch.stack([dropped[kind] for kind in KINDS], dim=1)


def flow_loss(
    session: Session, rows: Rows, x0: Tensor, t: Tensor, eps: Tensor | None, spans: Spans | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(mean loss to descend, detached terms to log) of one micro-batch: x0, eps (b, ...), t (b,)."""
    found = session.flow.objective.loss(
        Pairs(x0, rows.x, t, eps, rows.conditions, spans, *session.networks), session.objective
    )
    loss = found.descended.mean()
    terms = {"loss": loss.detach() if found.shown is found.descended else found.shown.detach().mean()}
    if session.aux_losses:
        assert found.data is not None, "checked when the recipe was read"
        # In the domain's own units, and weighted by t: near the noise the predicted sketch is a blur with no strokes.
        predicted = session.normalizer.denormalize(found.data())
        for name, (weight, measure) in session.aux_losses.items():
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
