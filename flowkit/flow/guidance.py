"""Guidance: a velocity led away from a weaker one, `v_weak + scale (v - v_weak)`, so that 1 is none and 0 is the weaker.

The weaker velocity is the same network's with its conditions dropped (classifier-free, arXiv 2207.12598), that times its
best factor (CFG-Zero*, arXiv 2503.18886), or another network's under the same conditions (autoguidance, arXiv 2406.02070).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import expand
from flowkit.flow.solvers.problem import Velocity, evaluations

# (x (B, ...), t (B,), class_label (B,) | None, condition (B, ...) | None, cfg_mask (B,) bool | None) -> (B, ...)
Network = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class NetworkVelocity:
    """The velocity of one network under fixed conditions, a row each: class_label (B,), condition (B, ...), or neither."""

    model: Network
    objective: FlowObjective
    class_label: Tensor | None = None
    condition: Tensor | None = None
    dropped: bool = False  # whether the network is told to ignore them

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        mask = torch.ones(len(x), dtype=torch.bool, device=x.device) if self.dropped else None
        return self.objective.to_velocity(self.model(x, t, self.class_label, self.condition, mask), x, t)

    def over(self, span: float) -> NetworkVelocity:
        """The average velocity over that span, of a network that knows it."""
        return replace(self, model=partial(_averaged, self.model, span))

    def take(self, rows: Tensor) -> NetworkVelocity:
        return replace(self, class_label=_rows(self.class_label, rows), condition=_rows(self.condition, rows))

    def with_and_without(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity under the conditions and with them dropped, by one call on 2B rows, the conditioned first."""
        mask = torch.arange(2 * len(x), device=x.device) >= len(x)
        xs, ts = torch.cat((x, x)), torch.cat((t, t))
        output = self.model(xs, ts, _twice(self.class_label), _twice(self.condition), mask)
        conditional, null = self.objective.to_velocity(output.to(x.dtype), xs, ts).chunk(2)
        return conditional, null


@dataclass(frozen=True)
class GuidedVelocity:
    """`velocity(x (B, ...), t (B,)) -> (B, ...)`; built by `guided`, which says what the fields are.

    A row costs one evaluation where it is not guided, two where it is and none at t < zero_init. With an interval or
    zero_init, rows at different times are told apart, for which the host waits on the device at every call.
    """

    strong: NetworkVelocity
    weak: NetworkVelocity | None  # None: the strong one with its conditions dropped
    scale: float
    interval: tuple[float, float] | None
    rescale: float
    optimised: bool
    zero_init: float

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
        if self.optimised:
            weak = expand(best_factor(v, weak), x) * weak
        led = torch.lerp(weak, v, self.scale)
        return rescaled(led, v, self.rescale) if self.rescale else led


@dataclass(frozen=True)
class Pushed:
    """A velocity with the gradient of scale * f added; `f(x (B, ...)) -> (B,)` is differentiable, row by row."""

    velocity: Velocity
    f: Callable[[Tensor], Tensor]
    scale: float = 1.0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = self.f(leaf)
            if value.shape != (len(x),):
                raise UserError(
                    f"guide: gave values of shape {tuple(value.shape)} for {len(x)} samples; expected ({len(x)},)"
                )
            if not value.requires_grad:
                raise UserError("guide: its values do not depend on x by anything differentiable (was x detached?)")
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return torch.add(self.velocity(x, t), gradient, alpha=self.scale)

    def over(self, span: float) -> Velocity:
        """The gradient is that at the start of the span."""
        over = getattr(self.velocity, "over", None)
        assert over is not None, "the velocity of a model can be had over a span"
        return replace(self, velocity=over(span))

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
    class_label: Tensor | None = None,
    condition: Tensor | None = None,
    scale: float = 1.0,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    optimised: bool = False,
    zero_init: float = 0.0,
    weak: tuple[Network, FlowObjective] | None = None,
) -> NetworkVelocity | GuidedVelocity:
    """The velocity for `integrate`: class_label (B,) int64 and condition (B, C) or (B, P, C), either or neither.

    interval: t from and to which there is guidance (arXiv 2404.07724); elsewhere the velocity is the model's own.
    rescale: from 0 to 1, how far the guided velocity's standard deviation is brought back to the conditional one's
    (arXiv 2305.08891). optimised, zero_init: CFG-Zero*'s factor of the null velocity, and the t below which the velocity is
    zero. weak: another network, of the same path, that takes the null's place.

    Where there is no condition and no other network there is nothing to guide by, and the scale does nothing. Scale 1 costs
    one evaluation a call, and so does 0 unless the factor is optimised. Raises UserError for settings out of range.
    """
    check_guidance(scale, interval, rescale, zero_init)
    strong = NetworkVelocity(model, objective, class_label, condition)
    other = None if weak is None else NetworkVelocity(*weak, class_label, condition)
    nothing = class_label is None and condition is None and other is None
    if (nothing or scale == 1) and not zero_init:
        return strong
    if nothing or scale == 1:  # zero at first, and never guided
        return GuidedVelocity(strong, strong, 1.0, (math.inf, math.inf), 0.0, False, zero_init)
    if scale == 0 and interval is None and not (optimised or zero_init or rescale):
        return replace(strong, dropped=True) if other is None else other
    return GuidedVelocity(strong, other, scale, interval, rescale, optimised, zero_init)


def check_guidance(
    scale: float, interval: tuple[float, float] | None = None, rescale: float = 0.0, zero_init: float = 0.0
) -> None:
    """Raise UserError for settings of guidance that are out of range, by their keys in a recipe's [sample]."""
    if not math.isfinite(scale):
        raise UserError(f"guidance_scale: guidance scale is {scale}; expected a finite number (1 is no guidance)")
    if interval is not None and not 0 <= interval[0] < interval[1] <= 1:
        mended = f"; did you mean [{interval[1]:g}, {interval[0]:g}]?" if interval[0] > interval[1] else ""
        raise UserError(f"guidance_interval: [{interval[0]:g}, {interval[1]:g}] is no interval of t; expected two rising "
                        f"numbers from 0 to 1{mended}")  # fmt: skip
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance_rescale: {rescale} is out of range; expected a number from 0 (none) to 1")
    if not 0 <= zero_init < 1:
        raise UserError(f"guidance.zero_init: {zero_init} is out of range; expected a number >= 0 and < 1")


def best_factor(v: Tensor, weak: Tensor) -> Tensor:
    """s (B,) that brings s `weak` nearest to v, both (B, ...): <v, weak> / |weak|^2 (arXiv 2503.18886); 0 where weak is 0."""
    v, weak = v.flatten(1), weak.flatten(1)
    squared = weak.square().sum(1)
    return torch.where(squared > 0, (v * weak).sum(1) / squared, 0.0)


def rescaled(led: Tensor, v: Tensor, amount: float) -> Tensor:
    """`led` brought `amount` of the way to the standard deviation of v over a row's elements (arXiv 2305.08891)."""
    spread, wanted = (part.flatten(1).std(1, correction=0) for part in (led, v))
    factor = torch.where(spread > 0, wanted / spread, 1.0)
    return expand(1 - amount + amount * factor, led) * led


def _averaged(model: Callable[..., Tensor], span: float, x: Tensor, t: Tensor, *conditions: Tensor | None) -> Tensor:
    return model(x, t, *conditions, torch.full_like(t, span))


def _rows(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat((tensor, tensor))
