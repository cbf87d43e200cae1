"""MeanFlow (arXiv 2505.13447): a network that learns the average velocity, for sampling in one step.

With v(x, t) the velocity, t = 0 noise and t = 1 data, and x_tau on the trajectory through x at t,

    u(x, t, s) = 1 / (s - t) * integral of v(x_tau, tau) for tau from t to s,    u(x, t, t) = v(x, t),

so that x_s = x_t + (s - t) u(x_t, t, s) exactly. Multiply by s - t and differentiate by t along the trajectory, with s fixed:

    -u + (s - t) du/dt = -v,    that is    u = v + (s - t) du/dt,    du/dt = (d_x u) v + d_t u.

(The paper counts time from the data; its r is our s, and its u = v - (t - r) du/dt is this.) In training v on the right is
the velocity of the pair, of which v(x, t) is the mean, and u the network itself with its gradient stopped. The network is
given the span s - t instead of s. With s fixed the span decreases as t increases, so its tangent is -1.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowkit.device import to_device
from flowkit.errors import UserError
from flowkit.flow.objective import Draws, FlowObjective, Losses, Objective, Pairs, Spans
from flowkit.flow.paths import expand

# (x (B, ...), t (B,), span (B,)) -> (B, ...)
AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]

POSITIONS = 1000  # the count of rows may start at any of these; a whole number of periods of the usual ratios


class MeanFlow(Objective):
    """ratio: fraction of rows with s > t. power: p of the adaptive weight 1 / (error + 1e-3)^p; 0 is none, 1 the paper's.

    omega: classifier-free guidance inside the target, omega v + (1 - omega) v_null, so that guided samples also cost one
    evaluation per step; 1 is none.
    """

    averages: ClassVar[bool] = True
    sampled: ClassVar[dict[str, Any]] = {"solver": "mean_flow", "steps": 1}
    ratio: float = Field(default=0.25, ge=0, le=1, description="fraction of rows with s > t")
    power: float = Field(
        default=1.0, ge=0, description="power p of the adaptive weight 1 / (error + 1e-3)^p; 0 disables it"
    )
    omega: float = Field(default=1.0, gt=0, description="guidance scale that the network learns; 1 disables it")

    def has_span(self, position: Tensor) -> Tensor:
        """Return which rows at those positions get s > t, evenly spread: float64 on the CPU -> bool."""
        return ((position + 1) * self.ratio).floor() > (position * self.ratio).floor()

    def spans(self, t: Tensor, draws: Draws) -> tuple[Tensor, Spans]:
        """Return the intervals of the rows: from the earlier of two times to the later one.

        The count starts at a new random position at every update. Otherwise the same positions in the batch would always have an
        interval.
        """
        other = draws.times("ends")
        first = draws.number("spans") % POSITIONS
        chosen = self.has_span(first + torch.arange(len(t), dtype=torch.float64))
        there = to_device(chosen, t.device)
        length = torch.where(there, (other - t).abs(), 0.0)
        return torch.where(there, torch.minimum(t, other), t), Spans(length, chosen, self.ratio)

    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        """Return the squared error of the average velocity, adaptively weighted; the loss shown is without the weight.

        Calls two networks: the wrapped one for gradients, the bare one for the derivative. Forward-mode differentiation of a
        wrapped network would silently skip DDP's gradient reduction, so that every rank would train on its own.
        """
        path, t, conditions, spans = scored.path, pairs.t, pairs.conditions, pairs.spans
        if spans is None:
            spans = Spans(torch.zeros_like(t), torch.zeros(len(t), dtype=torch.bool))
        x_t, v = (of(pairs.x0, pairs.x1, t, pairs.eps) for of in (path.interpolate, path.velocity))
        if self.omega != 1 and conditions.kinds:
            v = self._guided(pairs, x_t, v)
        target, rows = v, spans.rows
        if len(rows):
            told = conditions.take(rows)
            u = lambda x, t, span: pairs.bare(x, t, told, span)  # noqa: E731
            target = v.index_copy(0, rows, mean_flow_target(u, x_t[rows], t[rows], spans.length[rows], v[rows]))
        plain = self.error(pairs.network(x_t, t, conditions, spans.length), target)
        return Losses(plain / (plain.detach() + 1e-3) ** self.power, plain)

    @staticmethod
    def error(output: Tensor, target: Tensor) -> Tensor:
        """Return the mean square over a row's elements: (B, ...) -> (B,)."""
        return (output - target).square().flatten(1).mean(1)

    @torch.no_grad()
    def _guided(self, pairs: Pairs, x_t: Tensor, v: Tensor) -> Tensor:
        """Return omega v + (1 - omega) v_null; v itself for dropped conditions, so that v_null is learned unguided."""
        null = pairs.bare(x_t, pairs.t, pairs.conditions.drop(), torch.zeros_like(pairs.t))
        guided = torch.lerp(null.to(v.dtype), v, self.omega)
        return torch.where(pairs.conditions.nothing().view(-1, *(1,) * (v.ndim - 1)), v, guided)


def total_derivative(u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor) -> Tensor:
    """Return du/dt (B, ...) along the trajectory with velocity v (B, ...), for a fixed end of the interval; no gradient.

    Uses forward-mode differentiation, at the cost of about two evaluations. Fused attention has no forward mode, so attention
    is computed by its formula here. Pass the bare network: the hooks of DistributedDataParallel do not support this.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        derivative = torch.func.jvp(u, (x, t, span), (v, torch.ones_like(t), -torch.ones_like(span)))[1]
    assert isinstance(derivative, Tensor)
    return derivative


def mean_flow_target(u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor) -> Tensor:
    """Return v + (s - t) du/dt (B, ...): x, v (B, ...); t, span = s - t (B,). Its only fixed point is the average velocity."""
    return v + expand(span, x) * total_derivative(u, x, t, span, v).to(v.dtype)


def check_takes_span(model: nn.Module) -> None:
    """Raise UserError for a user's module that does not accept the length of the interval."""
    try:
        signature(model.forward).bind(*(None,) * 6)
    except TypeError:
        raise UserError(
            f"flow.objective: mean_flow needs a network that takes a span, but {type(model).__name__}.forward does not; define "
            "forward(x, t, class_label, condition, cfg_mask, span=None), where span (B,) is s - t, and None means 0"
        ) from None
