"""Classifier-free guidance (arXiv 2207.12598): `v_null + scale (v_cond - v_null)`, so 1 is none and 0 is the null."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.errors import UserError
from flowkit.flow.objective import FlowObjective

# (x (B, ...), t (B,), class_label (B,) | None, condition (B, ...) | None, cfg_mask (B,) bool | None) -> (B, ...)
Network = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class GuidedVelocity:
    """`velocity(x (B, ...), t (B,)) -> (B, ...)` of a network under fixed conditions; built by `guided`."""

    model: Network
    objective: FlowObjective
    class_label: Tensor | None
    condition: Tensor | None
    cfg_mask: Tensor | None
    scale: float
    evaluations: int  # of the network, for each sample and call: 1 or 2

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.evaluations == 1:
            output = self.model(x, t, self.class_label, self.condition, self.cfg_mask)
            return self.objective.to_velocity(output, x, t)
        both = self.model(torch.cat((x, x)), torch.cat((t, t)), self.class_label, self.condition, self.cfg_mask)
        conditional, null = both.to(x.dtype).chunk(2)
        # At fixed x and t velocity and data are affine in each other, so it does not matter which of them is guided.
        return self.objective.to_velocity(torch.lerp(null, conditional, self.scale), x, t)


def guided(
    model: Network,
    objective: FlowObjective,
    class_label: Tensor | None = None,
    condition: Tensor | None = None,
    scale: float = 1.0,
) -> GuidedVelocity:
    """The velocity for `integrate`: class_label (B,) int64 and condition (B, C) or (B, P, C), either or neither.

    Scales 0 and 1, and any scale where there is no condition, cost one evaluation a call; every other costs two, made
    in one call on a batch of 2B (conditioned rows first). Raises UserError for a scale that is not finite.
    """
    if not math.isfinite(scale):
        raise UserError(f"guidance scale is {scale}; expected a finite number (1 is no guidance)")
    given = [part for part in (class_label, condition) if part is not None]
    if not given or scale == 1:
        return GuidedVelocity(model, objective, class_label, condition, None, scale, 1)
    kept = torch.zeros(len(given[0]), dtype=torch.bool, device=given[0].device)
    if scale == 0:
        return GuidedVelocity(model, objective, class_label, condition, ~kept, scale, 1)
    mask = torch.cat((kept, ~kept))
    return GuidedVelocity(model, objective, _twice(class_label), _twice(condition), mask, scale, 2)


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat((tensor, tensor))
