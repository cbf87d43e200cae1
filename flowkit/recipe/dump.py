"""A recipe back as TOML, and the differences between two recipes."""

from __future__ import annotations

from typing import Any

import tomli_w

from flowkit.components import Component
from flowkit.recipe.recipe import Recipe
from flowkit.settings import Section, toml_value


def dump_toml(recipe: Recipe) -> str:
    """Return the whole recipe as TOML, with defaults. It reads back equal."""
    return tomli_w.dumps(recipe.to_dict())


def diff(a: Recipe, b: Recipe) -> list[str]:
    """Return a line such as `optim.lr: 0.0001 -> 0.0003` for every key that differs."""
    return _diff("", a, b)


def _diff(prefix: str, a: Any, b: Any) -> list[str]:
    if a == b:
        return []
    if isinstance(a, Section) and isinstance(b, Section) and not isinstance(a, Component):
        keys = dict.fromkeys([*type(a).model_fields, *type(b).model_fields])
        return [line for key in keys for line in _diff(f"{prefix}.{key}", getattr(a, key, None), getattr(b, key, None))]
    return [f"{prefix.removeprefix('.')}: {_shown(a)} -> {_shown(b)}"]


def _shown(value: Any) -> str:
    return "unset" if value is None else toml_value(value)


def default_keys(recipe: Recipe) -> set[str]:
    """Return the keys of the recipe that have their default values, as `section.key`."""
    found = set()
    for section in type(recipe).model_fields:
        table = getattr(recipe, section)
        for key, field in type(table).model_fields.items():
            if not field.is_required() and getattr(table, key) == field.get_default(call_default_factory=True):
                found.add(f"{section}.{key}")
    return found - {"model.arch"}
