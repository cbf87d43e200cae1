"""MeanFlow (arXiv 2505.13447, improved in 2512.02012): a network that learns the average velocity, for sampling in one step.

With v(x, t) the velocity, t = 0 noise and t = 1 data, and x_tau on the trajectory through x at t,

    u(x, t, s) = 1 / (s - t) * integral of v(x_tau, tau) for tau from t to s,    u(x, t, t) = v(x, t),

so that x_s = x_t + (s - t) u(x_t, t, s) exactly. Multiply by s - t and differentiate by t along the trajectory, with s fixed:

    -u + (s - t) du/dt = -v,    that is    u = v + (s - t) du/dt,    du/dt = (d_x u) v + d_t u.

(The paper counts time from the data; its r is our s, and its u = v - (t - r) du/dt is this.) In training v on the right is
the velocity of the pair, of which v(x, t) is the mean, and du/dt is of the network itself, with its gradient stopped. So the
loss |u - (s - t) du/dt - v|^2 is one on the velocity. The network is given the span s - t instead of s. With s fixed the span
decreases as t increases, so its tangent is -1.

du/dt is a derivative along v(x, t), which is not known. The first paper takes the velocity of the pair there as well, whose
noise is then multiplied by d_x u. The second takes the network's own u(x, t, t).

Guidance with scale w has the velocity v_w = v_null + w (v - v_null), so that guided samples also cost one evaluation per step.
Solved for the velocity of a pair, with the network's own v_w and v_null (arXiv 2512.02012):

    v_w = v + (1 - 1 / w) (v_w - v_null).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowkit.conditions import Conditions
from flowkit.device import to_device
from flowkit.errors import UserError
from flowkit.flow.objective import Draws, FlowObjective, Losses, Objective, Pairs, Spans
from flowkit.flow.paths import expand

# (x (B, ...), t (B,), span (B,)) -> (B, ...)
AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]

POSITIONS = 1000  # the count of rows may start at any of these; a whole number of periods of the usual ratios


class MeanFlow(Objective):
    """ratio: fraction of rows with s > t. power: p of the adaptive weight 1 / (error + 1e-3)^p; 0 is none, 1 the paper's.

    along: the velocity that the derivative follows. omega: the guidance scale to learn; 1 is none. omega_max: instead, scales
    from 1 to this are drawn log-uniformly, and the network is told them, so that they can be chosen while sampling.
    """

    averages: ClassVar[bool] = True
    sampled: ClassVar[dict[str, Any]] = {"solver": "mean_flow", "steps": 1}
    ratio: float = Field(default=0.25, ge=0, le=1, description="fraction of rows with s > t")
    power: float = Field(
        default=1.0, ge=0, description="power p of the adaptive weight 1 / (error + 1e-3)^p; 0 disables it"
    )
    along: Literal["network", "pair"] = Field(
        default="network",
        description="the velocity that the derivative follows: the network's own (arXiv 2512.02012), or that of the pair of "
        "noise and data (arXiv 2505.13447)",
    )
    omega: float = Field(default=1.0, gt=0, description="guidance scale that the network learns; 1 disables it")
    omega_max: float = Field(
        default=1.0,
        ge=1,
        description="the network learns all guidance scales from 1 to this, for sample.guidance_scale at no cost; 1 disables it",
    )

    @property
    def guidance_max(self) -> float:
        return self.omega_max

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
        guidance = self.omega_max ** draws.uniform("guidance") if self.omega_max > 1 else None
        return torch.where(there, torch.minimum(t, other), t), Spans(length, chosen, self.ratio, guidance=guidance)

    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        """Return the squared error of the velocity, adaptively weighted; the loss shown is without the weight.

        Calls two networks: the wrapped one for gradients, the bare one for the derivative. Forward-mode differentiation of a
        wrapped network would silently skip DDP's gradient reduction, so that every rank would train on its own.
        """
        path, t, spans = scored.path, pairs.t, pairs.spans
        if spans is None:
            spans = Spans(torch.zeros_like(t), torch.zeros(len(t), dtype=torch.bool))
        told, rows = replace(pairs.conditions, guidance=spans.guidance), spans.rows
        x_t, v = (of(pairs.x0, pairs.x1, t, pairs.eps) for of in (path.interpolate, path.velocity))
        with torch.no_grad():
            v, along = self._velocities(pairs, told, x_t, v)
            if along is not None:
                along = along[rows]
            elif len(rows):
                along = pairs.bare(x_t[rows], t[rows], told.take(rows), torch.zeros_like(t[rows])).to(v.dtype)
        target = v
        if len(rows):
            assert along is not None
            of_rows = told.take(rows)
            u = lambda x, t, span: pairs.bare(x, t, of_rows, span)  # noqa: E731
            there = mean_flow_target(u, x_t[rows], t[rows], spans.length[rows], v[rows], along)
            target = v.index_copy(0, rows, there)
        plain = self.error(pairs.network(x_t, t, told, spans.length), target)
        return Losses(plain / (plain.detach() + 1e-3) ** self.power, plain)

    @staticmethod
    def error(output: Tensor, target: Tensor) -> Tensor:
        """Return the mean square over a row's elements: (B, ...) -> (B,)."""
        return (output - target).square().flatten(1).mean(1)

    def _velocities(self, pairs: Pairs, told: Conditions, x_t: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the velocity to learn, and the one that the derivative follows (None: the network's, not yet computed).

        Dropped conditions are not guided, so that v_null is learned as it is.
        """
        scale = self.omega if told.guidance is None else expand(told.guidance, v)
        guides = bool(told.kinds) and (self.omega != 1 or told.guidance is not None)
        if self.along == "pair":
            if guides:
                null = pairs.bare(x_t, pairs.t, replace(told.drop(), guidance=None), torch.zeros_like(pairs.t)).to(
                    v.dtype
                )
                v = torch.where(expand(told.nothing(), v), v, null + scale * (v - null))
            return v, v
        if not guides:
            return v, None
        twice = told.doubled()
        if told.guidance is not None:
            twice = replace(twice, guidance=torch.cat((told.guidance, torch.ones_like(told.guidance))))
        xs, ts = torch.cat((x_t, x_t)), torch.cat((pairs.t, pairs.t))
        own, null = pairs.bare(xs, ts, twice, torch.zeros_like(ts)).to(v.dtype).chunk(2)
        return torch.where(expand(told.nothing(), v), v, v + (1 - 1 / scale) * (own - null)), own


def total_derivative(u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor) -> Tensor:
    """Return du/dt (B, ...) along the trajectory with velocity v (B, ...), for a fixed end of the interval; no gradient.

    Uses forward-mode differentiation, at the cost of about two evaluations. Fused attention has no forward mode, so attention
    is computed by its formula here. Pass the bare network: the hooks of DistributedDataParallel do not support this.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        derivative = torch.func.jvp(u, (x, t, span), (v, torch.ones_like(t), -torch.ones_like(span)))[1]
    assert isinstance(derivative, Tensor)
    return derivative


def mean_flow_target(
    u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor, along: Tensor | None = None
) -> Tensor:
    """Return v + (s - t) du/dt (B, ...): x, v (B, ...); t, span = s - t (B,). Its only fixed point is the average velocity.

    along (B, ...): the velocity of the derivative; v by default.
    """
    return v + expand(span, x) * total_derivative(u, x, t, span, v if along is None else along).to(v.dtype)


def check_takes_span(model: nn.Module, objective: str, *, guided: bool) -> None:
    """Raise UserError for a user's module that does not accept the length of the interval, or, if `guided`, a scale."""
    forward = signature(model.forward)
    try:
        forward.bind(*(None,) * 6)
    except TypeError:
        raise UserError(
            f"flow.objective: {objective} needs a network that takes a span, but {type(model).__name__}.forward does not; "
            "define forward(x, t, class_label, condition, cfg_mask, span=None), where span (B,) is s - t, and None means 0"
        ) from None
    try:
        if guided:
            forward.bind(*(None,) * 6, guidance=None)
    except TypeError:
        raise UserError(
            f"flow.objective.omega_max: needs a network that is told the guidance scale, but {type(model).__name__}.forward "
            "takes none; define forward(x, t, class_label, condition, cfg_mask, span=None, guidance=None), where guidance (B,), "
            "from 1 on, is the scale, and None means 1"
        ) from None
