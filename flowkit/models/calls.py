"""How the loop and the sampler call a network: `model(x, t)`, or with conditions where there are any."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def call_model(
    model: nn.Module | Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    class_label: Tensor | None,
    condition: Tensor | None,
    cfg_mask: Tensor | None,
    span: Tensor | None = None,
) -> Tensor:
    """Positional, so that a user's own `forward(x, t)` or `forward(x, t, label, features, drop)` may name them freely.

    span (B,) is the length of the interval that begins at t, for networks of average velocities.
    """
    if span is not None:
        return model(x, t, class_label, condition, cfg_mask, span)
    if class_label is None and condition is None:
        return model(x, t)
    return model(x, t, class_label, condition, cfg_mask)
