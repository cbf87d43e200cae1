"""A choice is a name, or a name with its settings: `"linear"`, `{"name": "logit_normal", "mean": -0.8}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from numbers import Real
from typing import Any, TypeVar

from flowkit.errors import UserError, listing, nearest

T = TypeVar("T")
# of the settings that a table may hold, by their annotations
EXPECTED = {"float": "a number", "int": "a whole number", "Sequence[float]": "a list of numbers"}
Choice = str | Mapping[str, Any]


def choose(what: str, registry: Mapping[str, Callable[..., T]], choice: Choice, settings: Mapping[str, Any]) -> T:
    """Build the entry of `registry` that `choice` names; `settings` add to those in the choice.

    `what` names the kind of choice in messages: "path". Raises UserError for an unknown name or setting, a setting that is
    missing, and one that is no number where a number is expected.
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
        kind = str(getattr(known[key].annotation, "__name__", known[key].annotation))
        if not _fits(table[key], kind):
            raise UserError(f"{what} {name!r}: {key} is {table[key]!r}; expected {EXPECTED[kind]}")
    if missing := [key for key in known if known[key].default is Parameter.empty and key not in table]:
        raise UserError(f'{what} {name!r} needs {listing(missing)}; write {{name = "{name}", {missing[0]} = ...}}')
    return registry[name](**table)


def _fits(value: object, kind: str) -> bool:
    if kind == "Sequence[float]":
        return isinstance(value, list | tuple) and all(_fits(one, "float") for one in value)
    if kind not in EXPECTED:
        return True
    return isinstance(value, int if kind == "int" else Real) and not isinstance(value, bool)
