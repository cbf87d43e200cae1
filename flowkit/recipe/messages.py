"""All mistakes in a recipe's keys and types at once: each with its key, what was expected, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flowkit.errors import listing, nearest
from flowkit.recipe.describe import find_field, naming_key
from flowkit.settings import Section, either, sections_of, toml_value, type_words, wrong_value

Kinds = tuple[type[Section], ...]


def first_mistake(error: ValidationError, data: dict[str, Any], section: type[Section]) -> str:
    """Return the first of `mistakes` in one section's table: `guidance_scale: expected a number, found "2"`."""
    return ": ".join(mistakes(error, data, section)[0])


def mistakes(error: ValidationError, data: dict[str, Any], root: type[Section]) -> list[tuple[str, str]]:
    """Return (key, what is wrong with it) for each key, in the recipe's order: "optim.lr", "expected ..., found ...".

    root: the expected type of `data`: Recipe or one of its sections.
    """
    found: dict[str, str] = {}
    for detail in _details(error, root):
        if detail["type"] == "impossible":
            return list(detail.get("ctx", {})["problems"])
        for key, text in _explain(detail, data, root):
            found.setdefault(key, text)
    return list(found.items())


def _details(error: ValidationError, root: type[Section]) -> Iterator[ErrorDetails]:
    """Yield pydantic's findings, and those inside tables of unknown components, where pydantic stops."""
    for detail in error.errors(include_url=False):
        yield detail
        if detail["type"] == "component_unknown" and isinstance(detail["input"], dict):
            yield from _inside(detail, root)


def _inside(detail: ErrorDetails, root: type[Section]) -> Iterator[ErrorDetails]:
    """Yield what else is wrong in a table of an unknown component, read as the first one. Keys of the others are allowed."""
    kinds = _locate(detail["loc"], {}, root)[1]
    table = {key: value for key, value in detail["input"].items() if key != detail.get("ctx", {})["key"]}
    try:
        kinds[0].model_validate(table)
    except ValidationError as error:
        for inner in error.errors(include_url=False):
            known = any(inner["loc"][:1] == (key,) for kind in kinds for key in kind.model_fields)
            if not (inner["type"] == "missing" or (inner["type"] == "extra_forbidden" and known)):
                yield {**inner, "loc": (*detail["loc"], *inner["loc"])}


def _locate(
    loc: tuple[int | str, ...], data: dict[str, Any], root: type[Section]
) -> tuple[list[str], Kinds, FieldInfo | None]:
    """Return a pydantic location as keys, the possible tables at or around the last one, and its field.

    If the data names a component, only that one's table is returned.
    """
    names: list[str] = []
    kinds: Kinds = (root,)
    field = None
    for part in loc:
        owner = next((kind for kind in kinds if part in kind.model_fields), None)
        if owner is None:
            break
        names.append(str(part))
        field = owner.model_fields[str(part)]
        value, key = _given(data, names), naming_key(field)
        name = value.get(key) if isinstance(value, dict) else value
        kinds = sections_of(field)
        kinds = tuple(kind for kind in kinds if key and kind.tag() == name) or kinds
    return names, kinds, field


def _explain(detail: ErrorDetails, data: dict[str, Any], root: type[Section]) -> Iterator[tuple[str, str]]:
    names, kinds, field = _locate(detail["loc"], data, root)
    where, kind = ".".join(names), detail["type"]
    if kind == "extra_forbidden":
        name = str(detail["loc"][-1])
        whole = not names and all(sections_of(field) for field in root.model_fields.values())
        what = "unknown section" if whole and isinstance(detail["input"], dict) else "unknown key"
        yield ".".join([*names, name]), what + _suggestion(name, names, kinds, root)
    elif kind == "missing" and kinds and len(names) == 1 and naming_key(field) is None:  # a whole section
        for key, inner in kinds[0].model_fields.items():
            if inner.is_required():
                yield f"{where}.{key}", f"missing; expected {type_words(inner)}"
    elif kind == "missing" and naming_key(field) and names[-1:] == [detail["loc"][-1]]:
        yield f"{where}.{naming_key(field)}", f"missing; expected {_names(kinds)}"
    elif kind == "missing" and names[-1:] == [detail["loc"][-1]]:
        assert field is not None
        yield where, f"missing; expected {type_words(field)}"
    elif kind in ("component_refused", "said"):
        yield where, detail["msg"]
    elif kind == "component_unknown" and isinstance(detail["input"], dict | str):
        key, given = detail.get("ctx", {})["key"], detail["input"]
        expected = _names(kinds)
        name = given.get(key) if isinstance(given, dict) else given
        where = f"{where}.{key}" if isinstance(given, dict) else where
        if isinstance(given, dict) and key not in given:
            yield where, f"missing; expected {expected}"
        elif isinstance(given, str) and key != "name":
            yield where, f"expected a table, found {toml_value(given)}"
        else:
            near = nearest(name, (one.tag() for one in kinds)) if isinstance(name, str) else ""
            yield where, f"expected {expected}, found {toml_value(name)}{near}"
    elif kind == "value_error" and (sections_of(field) if field else True):  # settings that contradict one another
        yield where, detail["msg"].removeprefix("Value error, ")
    else:
        while field is None or not isinstance(_given(data, names[:-1]), dict):  # a component written as its name
            names, _, field = _locate(tuple(names[:-1]), data, root)
        yield ".".join(names), wrong_value(_given(data, names), field)


def _names(kinds: Kinds) -> str:
    return either(f'"{kind.tag()}"' for kind in kinds)


def _suggestion(name: str, names: list[str], kinds: Kinds, root: type[Section]) -> str:
    """Suggest the alternative or section that has the key, or similar keys of this table; else list its keys."""
    field = find_field(names, root)
    others = [kind.tag() for kind in (sections_of(field) if field else ()) if name in kind.model_fields]
    if others:
        return f"; only {listing(map(repr, others))} {'has' if len(others) == 1 else 'have'} it"
    elsewhere = [f"{section}.{key}" for section, field in root.model_fields.items() for kind in sections_of(field)
                 for key in kind.model_fields if key == name and naming_key(field) != "name"]  # fmt: skip
    if elsewhere:
        return "; did you mean " + " or ".join(map(repr, dict.fromkeys(elsewhere))) + "?"
    here = dict.fromkeys(key for kind in kinds for key in kind.model_fields)
    where = f"[{'.'.join(names)}] has" if names else "sections are"
    return nearest(name, here) or f"; {where} {listing(here)}"


def _given(data: dict[str, Any], names: list[str]) -> Any:
    """Return what the recipe has under those keys, or None."""
    value: Any = data
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
