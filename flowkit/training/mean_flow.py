"""MeanFlow in the loop: which rows have an interval, and its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.conditions import Conditions
from flowkit.flow.mean_flow import mean_flow_target
from flowkit.models.calls import call_model
from flowkit.rng import key
from flowkit.training.batches import Rows
from flowkit.training.session import Session

POSITIONS = 1000  # where the count of rows may start: a whole number of periods of the usual ratios


@dataclass(frozen=True)
class Spans:
    """`length` (b,) s - t of a micro-batch, and `rows` (k,) those where it is not 0."""

    length: Tensor
    rows: Tensor


def draw_intervals(session: Session, update: int, times: Tensor) -> tuple[Tensor, Tensor]:
    """(t, s - t) (B,) of the global batch: the earlier and the later of two times where a row has an interval."""
    other = session.times(session.draws.uniform("ends", update, tuple(times.shape)))
    chosen = _chosen(session, update).to(times.device, non_blocking=True)
    return torch.where(chosen, torch.minimum(times, other), times), torch.where(chosen, (other - times).abs(), 0.0)


def spans_of(session: Session, update: int, length: Tensor, places: slice) -> Spans:
    """The part of the global batch's spans (B,) at `places`."""
    rows = _chosen(session, update)[places].nonzero().squeeze(1)
    return Spans(length[places], rows.to(length.device, non_blocking=True))


def _chosen(session: Session, update: int) -> Tensor:
    """Which rows of the global batch have an interval: (B,) bool on the CPU, so that no device is asked which do.

    The count starts at a place that is drawn anew at every update: rows that always come at one place of the batch would
    have an interval always, or never.
    """
    assert session.mean_flow is not None
    first = key(session.recipe.run.seed, "spans", update) % POSITIONS
    return session.mean_flow.has_span(first + torch.arange(session.layout.batch_size, dtype=torch.float64))


def mean_flow_loss(
    session: Session, rows: Rows, x0: Tensor, t: Tensor, eps: Tensor | None, spans: Spans
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `flow_loss`. Two networks are called: the wrapped one where a gradient goes, the bare one for the derivative.

    Forward-mode differentiation of a wrapped one would leave DDP's gradient reduction out, with no error: every rank would
    train for itself.
    """
    mean_flow, path = session.mean_flow, session.objective.path
    assert mean_flow is not None
    x_t, v = path.interpolate(x0, rows.x, t, eps), path.velocity(x0, rows.x, t, eps)
    bare = session.model.forward  # under autocast as the wrapped one; not compiled, for that has no forward mode
    conditions = rows.conditions
    if mean_flow.omega != 1 and conditions.kinds:
        v = _guided(bare, conditions, x_t, t, v, mean_flow.omega)
    target = v
    if len(spans.rows):
        told = conditions.take(spans.rows)
        u = lambda x, t, span: call_model(bare, x, t, told, span)  # noqa: E731
        averaged = mean_flow_target(u, x_t[spans.rows], t[spans.rows], spans.length[spans.rows], v[spans.rows])
        target = v.index_copy(0, spans.rows, averaged)
    output = call_model(session.wrapped, x_t, t, conditions, spans.length)
    weighted, plain = mean_flow.loss(output, target)
    return weighted.mean(), {"loss": plain.detach().mean()}


@torch.no_grad()
def _guided(bare, conditions: Conditions, x_t: Tensor, t: Tensor, v: Tensor, omega: float) -> Tensor:
    """omega v + (1 - omega) v_null; where the conditions are dropped, v, so that the null learns its own."""
    null = call_model(bare, x_t, t, conditions.drop(), torch.zeros_like(t))
    led = torch.lerp(null.to(v.dtype), v, omega)
    return torch.where(conditions.nothing().view(-1, *(1,) * (v.ndim - 1)), v, led)
