"""A choice is a name, or a name with its settings: `"linear"`, `{"name": "logit_normal", "mean": -0.8}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, TypeVar

from flowkit.errors import UserError, listing, nearest

T = TypeVar("T")
Choice = str | Mapping[str, Any]


def choose(what: str, registry: Mapping[str, Callable[..., T]], choice: Choice, settings: Mapping[str, Any]) -> T:
    """Build the entry of `registry` that `choice` names; `settings` add to those in the choice.

    `what` names the kind of choice in messages: "path". Raises UserError for an unknown name or setting.
    """
    table = {"name": choice} if isinstance(choice, str) else dict(choice)
    table.update(settings)
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        raise UserError(f"unknown {what} {name!r}; known are {listing(registry)}{nearest(str(name), registry)}")
    known = signature(registry[name]).parameters
    for key in table:
        if key not in known:
            raise UserError(
                f"{what} {name!r} has no setting {key!r}; it has {listing(known) or 'none'}{nearest(key, known)}"
            )
    return registry[name](**table)
