"""Guidance: a velocity guided away from a weaker one, `v_weak + scale (v - v_weak)`. Scale 1 is none, 0 the weaker one.

The weaker velocity is the same network's without its conditions (classifier-free, arXiv 2207.12598), that times its
best factor (CFG-Zero*, arXiv 2503.18886), or another network's under the same conditions (autoguidance, arXiv 2406.02070).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowkit.components import Component
from flowkit.conditions import NOTHING, Conditions
from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import CLIP, GaussianPath, expand
from flowkit.flow.solvers.problem import Wrapped

# (x (B, ...), t (B,), conditions of B rows) -> (B, ...); average velocities also take a span (B,).
Network = Callable[..., Tensor]

FEW = 5  # elements; of 5, the standard deviation is a tenth of the true one in 2 of 10,000 rows, of 2 in two of 800


class Guidance(Component):
    """How a velocity v (B, ...) is guided away from a weaker one. A scale of 1 disables it, for every method."""

    another: ClassVar[bool] = False  # whether the weaker velocity is another model's

    @property
    def begins(self) -> float:
        """The t below which x does not move: solver steps that start there are skipped, except the last."""
        return 0.0

    def guide(self, v: Tensor, weak: Tensor, scale: float) -> Tensor:
        """v, weak: (B, ...) -> (B, ...)."""
        return torch.lerp(weak, v, scale)


class ClassifierFree(Guidance):
    """Away from the network's velocity without its conditions (arXiv 2207.12598)."""


CFG = ClassifierFree()


class CFGZero(Guidance):
    """The unconditional velocity times its best factor, and zero velocity at first (CFG-Zero*, arXiv 2503.18886)."""

    zero_init: float = Field(default=0.04, ge=0, lt=1, description="skip steps that start below this t")

    @property
    def begins(self) -> float:
        return self.zero_init

    def guide(self, v: Tensor, weak: Tensor, scale: float) -> Tensor:
        return torch.lerp(expand(best_factor(v, weak), v) * weak, v, scale)


class Autoguidance(Guidance):
    """Away from a smaller or earlier model under the same conditions (arXiv 2406.02070)."""

    another: ClassVar[bool] = True
    ckpt: str = Field(min_length=1, description="checkpoint of a smaller or earlier model of the same data")


@dataclass(frozen=True)
class NetworkVelocity:
    """The velocity of one network under fixed conditions, one per row."""

    model: Network
    objective: FlowObjective
    conditions: Conditions = NOTHING

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.objective.to_velocity(self.model(x, t, self.conditions), x, t)

    def over(self, span: float) -> NetworkVelocity:
        """Return the average velocity over that span, for a network trained on spans."""
        return replace(self, model=partial(_averaged, self.model, span))

    def take(self, rows: Tensor) -> NetworkVelocity:
        return replace(self, conditions=self.conditions.take(rows))

    def with_and_without(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity with and without conditions, from one call on 2B rows, conditioned rows first."""
        xs, ts = torch.cat((x, x)), torch.cat((t, t))
        output = self.model(xs, ts, self._doubled)
        conditional, null = self.objective.to_velocity(output.to(x.dtype), xs, ts).chunk(2)
        return conditional, null

    def adding(self, kinds: Sequence[str], x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Return k + 1 velocities from one call: without `kinds`, with the first of them, with the first two, ..., with all."""
        count = len(kinds) + 1
        xs, ts = torch.cat([x] * count), torch.cat([t] * count)
        output = self.model(xs, ts, self._added(kinds))
        return self.objective.to_velocity(output.to(x.dtype), xs, ts).chunk(count)

    @cached_property
    def _doubled(self) -> Conditions:
        return self.conditions.doubled()

    @cached_property
    def _added(self) -> Callable[[Sequence[str]], Conditions]:
        return cache(self.conditions.added)


@dataclass(frozen=True)
class GuidedVelocity:
    """`velocity(x (B, ...), t (B,)) -> (B, ...)`, built by `guided`, which explains the fields.

    A row costs one evaluation if it is not guided, two if it is (k + 1 with scales of k kinds), and none at t < zero_init. With
    an interval or zero_init, rows at different times are handled separately, which syncs with the device at every call;
    `integrate` avoids this by integrating piece by piece.
    """

    strong: NetworkVelocity
    weak: NetworkVelocity | None  # None: the strong one without its conditions
    scale: float | Mapping[str, float]
    interval: tuple[float, float] | None
    rescale: float
    guidance: Guidance
    zero_init: float  # the guidance's `begins`; 0 after that
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
        for count, rule in ((1, GuidedVelocity._plain), (self._most, GuidedVelocity._guided)):
            rows = (spent == count).nonzero().squeeze(1)
            if len(rows) == len(x):
                return rule(self, x, t)
            if len(rows):
                v[rows] = rule(self.take(rows), x[rows], t[rows])
        return v

    def evaluations(self, t: Tensor) -> Tensor:
        """t (B,) -> (B,) int64."""
        spent = torch.full(t.shape, self._most, device=t.device)
        if self.interval is not None:
            low, high = self.interval
            spent = torch.where((t >= low) & (t <= high), spent, 1)
        return torch.where(t < self.zero_init, 0, spent)

    def over(self, span: float) -> GuidedVelocity:
        return replace(self, strong=self.strong.over(span), weak=None if self.weak is None else self.weak.over(span))

    def take(self, rows: Tensor) -> GuidedVelocity:
        return replace(self, strong=self.strong.take(rows), weak=None if self.weak is None else self.weak.take(rows))

    @property
    def _most(self) -> int:
        """Evaluations that a guided row costs."""
        return len(self.scale) + 1 if isinstance(self.scale, Mapping) else 2

    def _plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self.strong(x, t)

    def _guided(self, x: Tensor, t: Tensor) -> Tensor:
        if isinstance(self.scale, Mapping):
            added = self.strong.adding(tuple(self.scale), x, t)
            v, guided = added[-1], added[0]
            for (low, high), scale in zip(pairwise(added), self.scale.values(), strict=True):
                guided = guided + scale * (high - low)
        else:
            v, weak = self.strong.with_and_without(x, t) if self.weak is None else (self.strong(x, t), self.weak(x, t))
            guided = self.guidance.guide(v, weak, self.scale)
        return rescaled(guided, v, self.rescale, few=0 if self.numerics == 1 else FEW) if self.rescale else guided


@dataclass(frozen=True)
class GradientGuidance(Wrapped):
    """The velocity of p(x) exp(scale f(x)), from that of p and f(x1 (B, ...)) -> (B,), differentiable row by row.

    Exact would be v + (W sigma / alpha) grad log E[exp f(x1) | x_t], W = alpha' sigma - alpha sigma'. Here x1 given x_t is
    approximated by a Gaussian around the predicted x1 with covariance (sigma^2 / alpha) d x1 / d x_t (Tweedie's formula,
    through the network, as in arXiv 2209.14687), and f is expanded to second order along its gradient g:

        grad log E = (d x1 / d x_t)^T g / (1 + curvature variance),    both along g.

    So it is exact for Gaussian data and f linear, or quadratic in one direction (or isotropic, for isotropic data); otherwise
    an approximation. For alpha < clip, dividing by alpha would amplify the network's errors, so the variance of x1 changes
    gradually to sigma^2 / (alpha^2 + sigma^2), that of unit normal data.

    A call also costs a backward pass through the network, and two gradients of f. If the network has kinks (SELU), its
    derivative jumps, and an adaptive solver may fail.
    """

    f: Callable[[Tensor], Tensor]  # applied row by row
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
        # Near the noise as for unit normal data, later from the network, with a gradual change from alpha = clip / 2 to clip.
        share, divisor = (2 * alpha / self.clip - 1).clamp(0, 1), alpha.clamp_min(self.clip / 2)
        prior = sigma.square() / (alpha.square() + sigma.square())
        variance = torch.lerp(prior, sigma.square() / divisor * along, share).clamp_min(0)
        of_g, of_pulled = (1 - share) / (alpha.square() + sigma.square()), share / divisor
        push = expand(of_g, x) * g + expand(of_pulled, x) * pulled
        curvature = self._curvature(predicted.detach(), g, squared.sqrt(), variance)
        return v.detach() + expand(wronskian * sigma / (1 + variance * curvature), x) * push

    def _gradient(self, x1: Tensor) -> Tensor:
        """Return the gradient of scale * f at x1 (B, ...)."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x1.clone().requires_grad_()
            value = self.f(leaf)
            if value.shape != (len(x1),):
                raise UserError(
                    f"guide: returned values of shape {tuple(value.shape)} for {len(x1)} samples; expected ({len(x1)},)"
                )
            if not value.requires_grad:
                raise UserError("guide: its values are not differentiable with respect to x (was x detached?)")
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return self.scale * gradient

    def _curvature(self, x1: Tensor, g: Tensor, norm: Tensor, variance: Tensor) -> Tensor:
        """Return how fast the slope along g (B, ...) falls within a standard deviation of x1 in that direction: (B,), >= 0.

        A difference quotient: it needs no second derivatives of f, and is exact for quadratic f.
        """
        step = variance.sqrt().clamp_min(1e-3)
        unit = g / expand(norm.clamp_min(torch.finfo(g.dtype).tiny), g)
        slope = (self._gradient(x1 + expand(step, g) * unit) * unit).flatten(1).sum(1)
        return ((norm - slope) / step).clamp_min(0)


def guided(
    model: Network,
    objective: FlowObjective,
    conditions: Conditions = NOTHING,
    scale: float | Mapping[Any, float] = 1.0,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    guidance: Guidance = CFG,
    weak: tuple[Network, FlowObjective] | None = None,
    numerics: int = 2,
) -> NetworkVelocity | GuidedVelocity:
    """Return the velocity for `integrate`, under one condition per row of x. A label below 0 is the null class, which cannot be
    combined with tokens.

    interval: range of t with guidance (arXiv 2404.07724); elsewhere the velocity is the model's own.
    rescale: from 0 to 1, how far to rescale the guided velocity to the standard deviation of the conditional one
    (arXiv 2305.08891; see `rescaled`). weak: another network with the same path, instead of the unconditional one. numerics: 1
    reproduces checkpoints of that version: steps are not split at the ends of the interval, a step with stages at
    t >= zero_init may move x, and rescaling also uses the standard deviation of few numbers.

    scale: one for all conditions; or one for each kind, in the order in which they are added (arXiv 2211.09800, eq. 3):
    v = v(none) + w1 (v(first) - v(none)) + w2 (v(first and second) - v(first)). Kinds that are not given are left out; kinds
    that are given but not named are in all of these. Only with plain guidance.

    Without a condition and another network, the scale has no effect. Scale 1 costs one evaluation per call, and so does 0 with
    plain guidance.
    """
    label = conditions.class_label
    if label is not None and bool((label < 0).any()):
        assert conditions.tokens is None, "with a condition, the null class is not a label"
        conditions = replace(conditions, class_label=label.clamp_min(0)).drop(label < 0)
    strong = NetworkVelocity(model, objective, conditions)
    if isinstance(scale, Mapping):
        assert guidance == CFG and weak is None, "checked by the caller"
        scale = {kind: w for kind, w in scale.items() if kind in conditions.kinds}
        if all(w == 1 for w in scale.values()):
            return strong
        return GuidedVelocity(strong, None, scale, interval, rescale, guidance, 0.0, numerics)
    other = None if weak is None else NetworkVelocity(*weak, conditions)
    unconditional = not conditions.kinds or (conditions.dropped is not None and bool(conditions.nothing().all()))
    nothing, zero_init = unconditional and other is None, guidance.begins
    if (nothing or scale == 1) and not zero_init:
        return strong
    if nothing or scale == 1:  # only zero_init
        return GuidedVelocity(strong, strong, 1.0, (math.inf, math.inf), 0.0, guidance, zero_init, numerics)
    if scale == 0 and interval is None and type(guidance).guide is Guidance.guide and not (zero_init or rescale):
        return replace(strong, conditions=conditions.drop()) if other is None else other
    return GuidedVelocity(strong, other, scale, interval, rescale, guidance, zero_init, numerics)


def best_factor(v: Tensor, weak: Tensor) -> Tensor:
    """Return s (B,) that minimizes |s weak - v|, both (B, ...): <v, weak> / |weak|^2 (arXiv 2503.18886); 0 if weak is 0."""
    v, weak = v.flatten(1), weak.flatten(1)
    squared = weak.square().sum(1)
    return torch.where(squared > 0, (v * weak).sum(1) / squared, 0.0)


def rescaled(guided: Tensor, v: Tensor, amount: float, few: int = FEW) -> Tensor:
    """Rescale `guided` by `amount` towards the standard deviation of v over a row's elements (arXiv 2305.08891).

    Rows with fewer than `few` elements are rescaled to v's root mean square instead: the standard deviation of two similar
    numbers is near 0, which would make the factor unbounded, while here |guided| times the factor is |v|.
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
