"""How the loop and the sampler call a network: `model(x, t)`, or with what it is told where there is anything."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from flowkit.conditions import Conditions


def call_model(
    model: nn.Module | Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    conditions: Conditions,
    span: Tensor | None = None,
) -> Tensor:
    """Positional, so that a user's own `forward(x, t)` or `forward(x, t, label, features, drop)` may name them freely.

    span (B,) is the length of the interval that begins at t, for networks of average velocities.
    """
    told = (conditions.class_label, conditions.tokens, conditions.dropped)
    if span is not None:
        return model(x, t, *told, span)
    return model(x, t, *told) if conditions.kinds else model(x, t)
