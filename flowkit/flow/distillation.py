"""Distillation: a network that learns where a trained model's trajectories lead, for sampling in one or a few steps.

The student is told a time t and the span s - t, and learns the average velocity of the teacher's flow in between,

    u(x_t, t, s - t) = (x_s - x_t) / (s - t),

as in MeanFlow (arXiv 2505.13447), but x_s comes from the teacher's ODE (as in arXiv 2101.02388, there for whole trajectories
only). So the target has no noise, and nothing is differentiated by time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowkit.conditions import Conditions
from flowkit.flow.objective import Draws, FlowObjective, Losses, Objective, Pairs, Spans
from flowkit.flow.paths import expand
from flowkit.settings import AS_TUPLE, Says

Count = Annotated[int, Field(ge=1)]


class Distillation(Objective):
    """x_t is between noise and data, as in flow matching, where the teacher was trained.

    Most rows go along one step, from t to s, of a uniform grid of n steps, for one n of `counts`: the steps of sampling. The
    others (`between`) go from one training time to another. Validation measures the velocity, the limit of short steps.

    teacher: checkpoint of a trained model of the same data. If the student has the same architecture and sizes, it starts with
    the teacher's weights. omega: guidance scale of the trajectories. omega_max: instead, scales from 1 to this are drawn
    log-uniformly, and the student is told them.
    """

    averages: ClassVar[bool] = True
    sampled: ClassVar[dict[str, Any]] = {"solver": "mean_flow", "steps": 4}
    teacher: str = Field(min_length=1, description="checkpoint of a trained model of the same data")
    counts: Annotated[tuple[Count, ...], AS_TUPLE, Says("a list of whole numbers >= 1")] = Field(
        default=(1, 2, 4),
        min_length=1,
        description="numbers of steps to learn to sample with; fewer numbers are learned better",
    )
    between: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="fraction of rows between two training times, for other steps than those, and for validation",
    )
    steps: int = Field(
        default=4, ge=1, description="midpoint steps of the teacher from one time to the other, two evaluations each"
    )
    omega: float = Field(default=1.0, gt=0, description="guidance scale of the teacher; 1 disables it")
    omega_max: float = Field(
        default=1.0,
        ge=1,
        description="the network learns all guidance scales from 1 to this, for sample.guidance_scale at no cost; 1 disables it",
    )

    @property
    def guidance_max(self) -> float:
        return self.omega_max

    @property
    def distills(self) -> str:
        return self.teacher

    def spans(self, t: Tensor, draws: Draws) -> tuple[Tensor, Spans]:
        other, picked = draws.times("ends"), draws.uniform("counts")
        count = torch.full_like(t, self.counts[0])
        for place, other_count in enumerate(self.counts[1:], 1):
            count = torch.where(picked * len(self.counts) < place, count, other_count)
        free = draws.uniform("free") < self.between
        start = torch.where(free, torch.minimum(t, other), (count * draws.uniform("places")).floor() / count)
        length = torch.where(free, (other - t).abs(), 1 / count)
        guidance = self.omega_max ** draws.uniform("guidance") if self.omega_max > 1 else None
        return start, Spans(length, torch.ones(len(t), dtype=torch.bool), guidance=guidance)

    def field(self, teacher: Callable[..., Tensor], told: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the velocity of the trajectories, of x (B, ...) and t (B,): the teacher's, guided where there are conditions.

        The scale is told.guidance, or else omega.
        """
        scale = self.omega if told.guidance is None else told.guidance
        guides = bool(told.kinds) and (self.omega != 1 or told.guidance is not None)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if not guides:
                return teacher(x, t, told).to(x.dtype)
            v, null = teacher(torch.cat((x, x)), torch.cat((t, t)), told.doubled()).to(x.dtype).chunk(2)
            return null + (expand(scale, x) if isinstance(scale, Tensor) else scale) * (v - null)

        return velocity

    def loss(self, pairs: Pairs, scored: FlowObjective) -> Losses:
        """Return the mean squared error of the average velocity per row."""
        t, spans, teacher = pairs.t, pairs.spans, pairs.teacher
        assert spans is not None and teacher is not None
        told = replace(pairs.conditions, guidance=spans.guidance)
        x_t = scored.path.interpolate(pairs.x0, pairs.x1, t, pairs.eps)
        with torch.no_grad():
            velocity, h = self.field(teacher, told), spans.length / self.steps
            x, target = x_t, torch.zeros_like(x_t)
            for step in range(self.steps):
                begin = t + step * h
                v = velocity(x + expand(h / 2, x) * velocity(x, begin), begin + h / 2)
                x, target = (
                    x + expand(h, x) * v,
                    target + v / self.steps,
                )  # their mean: (x_s - x_t) / (s - t) for any span
        output = pairs.network(x_t, t, told, spans.length)
        losses = (output - target).square().flatten(1).mean(1)
        return Losses(losses, losses)
