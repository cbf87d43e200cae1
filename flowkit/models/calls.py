"""How training and sampling call a network: `model(x, t)`, plus the conditions if there are any."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

from torch import Tensor, nn

from flowkit.conditions import Conditions
from flowkit.errors import UserError


def call_model(
    model: nn.Module | Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    conditions: Conditions,
    span: Tensor | None = None,
    call: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Call the network with positional arguments, so that a user's `forward(x, t, label, features, drop)` may name them freely.

    span (B,): length of the interval that starts at t, for networks of average velocities. If some tokens are padding, their
    mask (B, P) is passed by name, as condition_mask, and so are the tokens of x that are `given` (B, S), how rows were
    `augmented` (B, A), the scale of `guidance` (B,), and the tokens of an `image` or a `text` (B, P, C) with image_mask and
    text_mask (B, P). call: what computes the network instead of itself, such as its compiled form. Raises UserError if the
    network does not accept the mask.
    """
    call = call or model
    told = (conditions.class_label, conditions.tokens, conditions.dropped)
    named: dict[str, Any] = {
        name: value for name in ("given", "augmented", "guidance") if (value := getattr(conditions, name)) is not None
    }
    named |= conditions.encoded
    if span is None and told[0] is None and told[1] is None and not named:
        return call(x, t)
    if conditions.mask is not None:
        check_takes_mask(model)
        named["condition_mask"] = conditions.mask
    if span is not None:
        return call(x, t, *told, span, **named)
    return call(x, t, *told, **named)


def check_takes_mask(model: nn.Module | Callable[..., Tensor]) -> None:
    """Raise UserError for a network that does not accept a mask of condition tokens."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    forward = type(inner).forward if isinstance(inner, nn.Module) else inner
    if not _takes_mask(getattr(forward, "__func__", forward)):
        raise UserError(
            f"condition_mask: some rows have fewer condition tokens than others, but {type(inner).__name__}.forward takes no "
            "condition_mask, so it would use the padding as tokens; define forward(x, t, class_label, condition, cfg_mask, "
            "span=None, condition_mask=None), where condition_mask (B, P) bool is True for tokens and False for padding"
        )


@cache
def _takes_mask(forward: Callable[..., Tensor]) -> bool:
    parameters = signature(forward).parameters
    return "condition_mask" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
