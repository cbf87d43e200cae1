"""MeanFlow (arXiv 2505.13447): a network of the average velocity, which takes a sample to its data in one step.

With v(x, t) the velocity, t = 0 noise and t = 1 data, and x_tau on the trajectory through x at t,

    u(x, t, s) = 1 / (s - t) * integral of v(x_tau, tau) for tau from t to s,    u(x, t, t) = v(x, t),

so that x_s = x_t + (s - t) u(x_t, t, s) exactly. Multiply by s - t and differentiate by t along the trajectory, s fixed:

    -u + (s - t) du/dt = -v,    that is    u = v + (s - t) du/dt,    du/dt = (d_x u) v + d_t u.

(The paper counts time from the data; its r is our s, and its u = v - (t - r) du/dt is this.) In training v on the right is
the velocity of the pair, of which v(x, t) is the mean, and u the network itself with its gradient stopped. The network is
given the span s - t in place of s, and with s fixed that falls as t rises: its tangent is -1.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowkit.errors import UserError
from flowkit.flow.objective import Objective
from flowkit.flow.paths import expand

# (x (B, ...), t (B,), span (B,)) -> (B, ...)
AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]


class MeanFlow(Objective):
    """ratio: share of rows with s > t. power: p of the adaptive weight 1 / (error + 1e-3)^p, 0 is none, 1 the paper's.

    omega: classifier-free guidance inside the target, omega v + (1 - omega) v_null, so that guided samples cost one
    evaluation a step too; 1 is none.
    """

    averages: ClassVar[bool] = True
    ratio: float = Field(default=0.25, ge=0, le=1, description="share of rows whose interval is longer than nothing")
    power: float = Field(default=1.0, ge=0, description="p of the adaptive weight 1 / (error + 1e-3)^p; 0 is none")
    omega: float = Field(default=1.0, gt=0, description="guidance scale learned into the network; 1 is none")

    def has_span(self, position: Tensor) -> Tensor:
        """Which of the rows at those positions get s > t, evenly spread: float64 on the CPU -> bool."""
        return ((position + 1) * self.ratio).floor() > (position * self.ratio).floor()

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(weighted, plain) squared error, mean over a sample's elements: (B, ...) -> (B,) each; the weight is constant."""
        plain = (output - target).square().flatten(1).mean(1)
        return plain / (plain.detach() + 1e-3) ** self.power, plain


def total_derivative(u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor) -> Tensor:
    """du/dt (B, ...) along the trajectory whose velocity is v (B, ...), the interval's end being fixed; no gradient.

    By forward-mode differentiation, one pass of some two evaluations. Fused attention has no forward mode, so attention
    is computed by its formula here. Give it the bare network: the hooks of DistributedDataParallel know nothing of it.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        derivative = torch.func.jvp(u, (x, t, span), (v, torch.ones_like(t), -torch.ones_like(span)))[1]
    assert isinstance(derivative, Tensor)
    return derivative


def mean_flow_target(u: AverageVelocity, x: Tensor, t: Tensor, span: Tensor, v: Tensor) -> Tensor:
    """v + (s - t) du/dt (B, ...): x, v (B, ...); t, span = s - t (B,). Its only fixed point is the average velocity."""
    return v + expand(span, x) * total_derivative(u, x, t, span, v).to(v.dtype)


def check_takes_span(model: nn.Module) -> None:
    """Raise UserError for a module of one's own that could not be told how long the interval is."""
    try:
        signature(model.forward).bind(*(None,) * 6)
    except TypeError:
        raise UserError(
            f"flow.objective: mean_flow needs a network of two times, and {type(model).__name__}.forward takes no span; give "
            "it forward(x, t, class_label, condition, cfg_mask, span=None), span (B,) being s - t and None the same as 0"
        ) from None
