"""Guidance: a velocity guided away from a weaker one, `v_weak + scale (v - v_weak)`, so that 1 is none and 0 is the weaker.

The weaker velocity is the same network's with its conditions dropped (classifier-free, arXiv 2207.12598), that times its
best factor (CFG-Zero*, arXiv 2503.18886), or another network's under the same conditions (autoguidance, arXiv 2406.02070).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component
from flowkit.conditions import NOTHING, Conditions
from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import CLIP, GaussianPath, expand
from flowkit.flow.solvers.problem import Velocity, evaluations

# (x (B, ...), t (B,), conditions of B rows) -> (B, ...); for averages a span (B,) comes last.
Network = Callable[..., Tensor]

FEW = 5  # elements: the deviation of as many is a tenth of what it should be in 2 of 10,000 rows, of two in 800


class Guidance(Component):
    """How a velocity v (B, ...) is guided away from a weaker one. A scale of 1 is no guidance, whatever the kind."""

    another: ClassVar[bool] = False  # the weaker velocity is that of another model, not of the null condition

    @property
    def begins(self) -> float:
        """The t below which x stands still: a solver's steps that begin there are left out, but for the last."""
        return 0.0

    def guide(self, v: Tensor, weak: Tensor, scale: float) -> Tensor:
        """v, weak: (B, ...) -> (B, ...)."""
        return torch.lerp(weak, v, scale)


class ClassifierFree(Guidance):
    """Away from the network's own velocity with its conditions dropped (arXiv 2207.12598)."""


CFG = ClassifierFree()


class CFGZero(Guidance):
    """The null velocity times its best factor, and nothing at first (CFG-Zero*, arXiv 2503.18886)."""

    zero_init: float = Field(default=0.04, ge=0, lt=1, description="steps that begin below this t are left out")

    @property
    def begins(self) -> float:
        return self.zero_init

    def guide(self, v: Tensor, weak: Tensor, scale: float) -> Tensor:
        return torch.lerp(expand(best_factor(v, weak), v) * weak, v, scale)


class Autoguidance(Guidance):
    """Away from a smaller or earlier model under the same conditions (arXiv 2406.02070)."""

    another: ClassVar[bool] = True
    ckpt: str = Field(min_length=1, description="a smaller or earlier model of the same data, to lead away from")


@dataclass(frozen=True)
class NetworkVelocity:
    """The velocity of one network under fixed conditions, a row each."""

    model: Network
    objective: FlowObjective
    conditions: Conditions = NOTHING

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.objective.to_velocity(self.model(x, t, self.conditions), x, t)

    def over(self, span: float) -> NetworkVelocity:
        """The average velocity over that span, of a network that knows it."""
        return replace(self, model=partial(_averaged, self.model, span))

    def take(self, rows: Tensor) -> NetworkVelocity:
        return replace(self, conditions=self.conditions.take(rows))

    def with_and_without(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity under the conditions and with them dropped, by one call on 2B rows, the conditioned first."""
        xs, ts = torch.cat((x, x)), torch.cat((t, t))
        output = self.model(xs, ts, self.conditions.doubled())
        conditional, null = self.objective.to_velocity(output.to(x.dtype), xs, ts).chunk(2)
        return conditional, null


@dataclass(frozen=True)
class GuidedVelocity:
    """`velocity(x (B, ...), t (B,)) -> (B, ...)`; built by `guided`, which says what the fields are.

    A row costs one evaluation where it is not guided, two where it is and none at t < zero_init. With an interval or
    zero_init, rows at different times are told apart, for which the host waits on the device at every call; `integrate`
    takes the pieces between the jumps instead.
    """

    strong: NetworkVelocity
    weak: NetworkVelocity | None  # None: the strong one with its conditions dropped
    scale: float
    interval: tuple[float, float] | None
    rescale: float
    guidance: Guidance
    zero_init: float  # the guidance's `begins`, until x has begun
    numerics: int

    @property
    def breaks(self) -> tuple[float, ...]:
        return () if self.numerics == 1 or self.interval is None else tuple(filter(math.isfinite, self.interval))

    @property
    def begins(self) -> float:
        return 0.0 if self.numerics == 1 else self.zero_init

    def between(self, low: float, high: float) -> NetworkVelocity | GuidedVelocity:
        if self.interval is not None and not self.interval[0] <= (low + high) / 2 <= self.interval[1]:
            return self.strong
        return replace(self, interval=None, zero_init=0.0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.interval is None and not self.zero_init:
            return self._guided(x, t)
        spent, v = self.evaluations(t), torch.zeros_like(x)
        for count, rule in ((1, GuidedVelocity._plain), (2, GuidedVelocity._guided)):
            rows = (spent == count).nonzero().squeeze(1)
            if len(rows) == len(x):
                return rule(self, x, t)
            if len(rows):
                v[rows] = rule(self.take(rows), x[rows], t[rows])
        return v

    def evaluations(self, t: Tensor) -> Tensor:
        """t (B,) -> (B,) int64."""
        spent = torch.full(t.shape, 2, device=t.device)
        if self.interval is not None:
            low, high = self.interval
            spent = torch.where((t >= low) & (t <= high), spent, 1)
        return torch.where(t < self.zero_init, 0, spent)

    def over(self, span: float) -> GuidedVelocity:
        return replace(self, strong=self.strong.over(span), weak=None if self.weak is None else self.weak.over(span))

    def take(self, rows: Tensor) -> GuidedVelocity:
        return replace(self, strong=self.strong.take(rows), weak=None if self.weak is None else self.weak.take(rows))

    def _plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self.strong(x, t)

    def _guided(self, x: Tensor, t: Tensor) -> Tensor:
        v, weak = self.strong.with_and_without(x, t) if self.weak is None else (self.strong(x, t), self.weak(x, t))
        guided = self.guidance.guide(v, weak, self.scale)
        return rescaled(guided, v, self.rescale, few=0 if self.numerics == 1 else FEW) if self.rescale else guided


@dataclass(frozen=True)
class GradientGuidance:
    """The velocity of p(x) exp(scale f(x)), from that of p and f(x1 (B, ...)) -> (B,), differentiable row by row.

    Exact would be v + (W sigma / alpha) grad log E[exp f(x1) | x_t], W = alpha' sigma - alpha sigma'. Here x1 given x_t is a
    Gaussian about the predicted x1 with covariance (sigma^2 / alpha) d x1 / d x_t (Tweedie's, through the network; as in
    arXiv 2209.14687), and f is followed to second order along its gradient g:

        grad log E = (d x1 / d x_t)^T g / (1 + curvature variance),    both along g.

    So it is exact for Gaussian data and f linear, or quadratic in one direction (or round, of round data); elsewhere it is an
    approximation. Where alpha < clip, dividing by it would amplify the network's errors: there x1 has more and more the variance
    sigma^2 / (alpha^2 + sigma^2), that of unit normal data.

    A call costs a backward pass through the network besides, and two gradients of f. Where the network has kinks (SELU), its
    derivative jumps, and an adaptive solver may give up.
    """

    velocity: Velocity
    f: Callable[[Tensor], Tensor]
    path: GaussianPath
    scale: float = 1.0
    clip: float = CLIP

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        path, t = self.path, t.clone()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            v = self.velocity(leaf, t).to(leaf.dtype)
            predicted = path.convert(v, leaf, t, "velocity", "data")
            g = self._gradient(predicted.detach())
            (pulled,) = torch.autograd.grad(predicted, leaf, g)
        alpha, sigma = path.alpha(t), path.sigma(t)
        wronskian = path.d_alpha(t) * sigma - alpha * path.d_sigma(t)
        squared = g.flatten(1).square().sum(1)
        along = (g * pulled).flatten(1).sum(1) / squared.clamp_min(torch.finfo(g.dtype).tiny)
        # Near the noise as of unit normal data, then as the network says, and between alpha = clip / 2 and clip gradually.
        share, divisor = (2 * alpha / self.clip - 1).clamp(0, 1), alpha.clamp_min(self.clip / 2)
        prior = sigma.square() / (alpha.square() + sigma.square())
        variance = torch.lerp(prior, sigma.square() / divisor * along, share).clamp_min(0)
        of_g, of_pulled = (1 - share) / (alpha.square() + sigma.square()), share / divisor
        push = expand(of_g, x) * g + expand(of_pulled, x) * pulled
        curvature = self._curvature(predicted.detach(), g, squared.sqrt(), variance)
        return v.detach() + expand(wronskian * sigma / (1 + variance * curvature), x) * push

    def _gradient(self, x1: Tensor) -> Tensor:
        """Of scale * f, at x1 (B, ...)."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x1.clone().requires_grad_()
            value = self.f(leaf)
            if value.shape != (len(x1),):
                raise UserError(
                    f"guide: gave values of shape {tuple(value.shape)} for {len(x1)} samples; expected ({len(x1)},)"
                )
            if not value.requires_grad:
                raise UserError("guide: its values do not depend on x by anything differentiable (was x detached?)")
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return self.scale * gradient

    def _curvature(self, x1: Tensor, g: Tensor, norm: Tensor, variance: Tensor) -> Tensor:
        """How fast the slope along g (B, ...) falls, over a standard deviation of x1 in that direction: (B,), 0 where it rises.

        A difference quotient: no second derivatives are asked of f, and it is exact where f is quadratic.
        """
        step = variance.sqrt().clamp_min(1e-3)
        unit = g / expand(norm.clamp_min(torch.finfo(g.dtype).tiny), g)
        slope = (self._gradient(x1 + expand(step, g) * unit) * unit).flatten(1).sum(1)
        return ((norm - slope) / step).clamp_min(0)

    @property
    def breaks(self) -> tuple[float, ...]:
        return getattr(self.velocity, "breaks", ())

    def between(self, low: float, high: float) -> Velocity:
        between = getattr(self.velocity, "between", None)
        return self if between is None else replace(self, velocity=between(low, high))

    @property
    def begins(self) -> float:
        return getattr(self.velocity, "begins", 0.0)

    def evaluations(self, t: Tensor) -> Tensor:
        return evaluations(self.velocity, t)

    def take(self, rows: Tensor) -> Velocity:
        """The function sees rows one by one, so there is nothing of it to pick."""
        take = getattr(self.velocity, "take", None)
        assert take is not None, "the velocity of a model can be had for some of its rows"
        return replace(self, velocity=take(rows))


def guided(
    model: Network,
    objective: FlowObjective,
    conditions: Conditions = NOTHING,
    scale: float = 1.0,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    guidance: Guidance = CFG,
    weak: tuple[Network, FlowObjective] | None = None,
    numerics: int = 2,
) -> NetworkVelocity | GuidedVelocity:
    """The velocity for `integrate`, under conditions of as many rows as x. A label below 0 is the null class, beside which
    there are no tokens.

    interval: t from and to which there is guidance (arXiv 2404.07724); elsewhere the velocity is the model's own.
    rescale: from 0 to 1, how far the guided velocity's standard deviation is brought back to the conditional one's
    (arXiv 2305.08891; `rescaled`). weak: another network, of the same path, that takes the null's place. numerics: 1 is what
    checkpoints of that version were sampled by: steps are not split at the
    interval's ends, a step may move x by stages at t >= zero_init, and rescaling looks at the deviation of few numbers, too.

    Where there is no condition and no other network there is nothing to guide by, and the scale does nothing. Scale 1 costs
    one evaluation a call, and so does 0 of plain guidance.
    """
    label = conditions.class_label
    if label is not None and bool((label < 0).any()):
        assert conditions.tokens is None, "the null class and a condition: no label is to be given"
        conditions = Conditions(label.clamp_min(0)).drop(label < 0)
    strong = NetworkVelocity(model, objective, conditions)
    other = None if weak is None else NetworkVelocity(*weak, conditions)
    unconditional = not conditions.kinds or (conditions.dropped is not None and bool(conditions.nothing().all()))
    nothing, zero_init = unconditional and other is None, guidance.begins
    if (nothing or scale == 1) and not zero_init:
        return strong
    if nothing or scale == 1:  # zero at first, and never guided
        return GuidedVelocity(strong, strong, 1.0, (math.inf, math.inf), 0.0, guidance, zero_init, numerics)
    if scale == 0 and interval is None and type(guidance).guide is Guidance.guide and not (zero_init or rescale):
        return replace(strong, conditions=conditions.drop()) if other is None else other
    return GuidedVelocity(strong, other, scale, interval, rescale, guidance, zero_init, numerics)


def best_factor(v: Tensor, weak: Tensor) -> Tensor:
    """s (B,) that brings s `weak` nearest to v, both (B, ...): <v, weak> / |weak|^2 (arXiv 2503.18886); 0 where weak is 0."""
    v, weak = v.flatten(1), weak.flatten(1)
    squared = weak.square().sum(1)
    return torch.where(squared > 0, (v * weak).sum(1) / squared, 0.0)


def rescaled(guided: Tensor, v: Tensor, amount: float, few: int = FEW) -> Tensor:
    """`guided` brought `amount` of the way to the standard deviation of v over a row's elements (arXiv 2305.08891).

    Rows of fewer than `few` elements are brought to v's root mean square: the deviation of two numbers is near 0 whenever
    they are alike, and the factor then has no bound, while |guided| times this one is |v|.
    """
    guided_rows, v_rows = guided.flatten(1), v.flatten(1)
    if guided_rows.shape[1] < few:
        spread, wanted = (rows.square().mean(1).sqrt() for rows in (guided_rows, v_rows))
    else:
        spread, wanted = (rows.std(1, correction=0) for rows in (guided_rows, v_rows))
    factor = torch.where(spread > 0, wanted / spread, 1.0)
    return expand(1 - amount + amount * factor, guided) * guided


def _averaged(model: Network, span: float, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    return model(x, t, conditions, torch.full_like(t, span))
