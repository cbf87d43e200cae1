"""`--set optim.lr=3e-4`: keys of the recipe given on the command line."""

from __future__ import annotations

import copy
import datetime
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from flowkit.components import Component
from flowkit.recipe.describe import find_field
from flowkit.settings import takes_text

_DOT = re.compile(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)')  # but not in quotes: aux_loss."my_package.losses:mine"
RIVALS = {"train.steps": "train.epochs", "train.epochs": "train.steps"}  # an override of one replaces the other
EXAMPLE = "write --set section.key=value, such as --set optim.lr=3e-4"


def apply_overrides(
    data: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str], list[tuple[str, str]]]:
    """Return `data` with the overrides applied, the override's text by the key it set, and the overrides that are invalid.

    `section.key=value` sets a value; `section.key=` removes the key, so that its default applies. The last one wins.
    """
    data = copy.deepcopy(data)
    places: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        names = [part.strip('"') for part in _DOT.split(key)]
        if not equals:
            problems.append((f"--set {text}", f"has no value; {EXAMPLE}"))
        elif not all(names):
            problems.append((f"--set {text}", f"names no key; {EXAMPLE}"))
        elif blocked := _put(data, names, value):
            problems.append((f"--set {text}", f"{blocked} is a value, not a table, so nothing can be set inside it"))
        else:
            places[key] = text
    for key, rival in RIVALS.items():
        if key in places and rival not in places:
            section, name = rival.split(".")
            if isinstance(data.get(section), dict):
                data[section].pop(name, None)
    return data, places, problems


def parse_value(text: str) -> Any:
    """Parse a TOML value, else return the text: `3e-4` is a number, `50 epochs` and `2024-01-01` are text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if len(parsed) > 1 or isinstance(parsed["value"], (datetime.date, datetime.time)):  # no key takes a date
        return text
    return parsed["value"]


def _put(data: dict[str, Any], names: list[str], value: str) -> str:
    """Set the value in the nested tables, creating them as needed. Return the key that is in the way, if any."""
    table: dict[str, Any] = data
    for depth, name in enumerate(names[:-1], start=1):
        inner: Any = table.get(name, _default_choice(names[:depth]))
        if isinstance(inner, str):  # a choice written as its name
            inner = {"name": inner}
        if not isinstance(inner, dict):
            return ".".join(names[:depth])
        table[name] = inner
        table = inner
    if value:
        table[names[-1]] = _value_for(names, value)
    else:
        table.pop(names[-1], None)
    return ""


def _value_for(names: list[str], text: str) -> Any:
    """Parse the value, but keep `42` and `true` as text if text is expected: the shell removes the quotes."""
    value, field = parse_value(text), find_field(names)
    return text if field is not None and takes_text(field) and isinstance(value, int | float) else value


def _default_choice(names: list[str]) -> Any:
    """Return what an absent table starts from: the name of the default choice, else nothing."""
    field = find_field(names)
    default = field.get_default() if field is not None else None
    return default.plain() if isinstance(default, Component) else {}
