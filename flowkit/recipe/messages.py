"""All mistakes in a recipe's keys and types at once: each with its key, what was expected, the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flowkit.errors import listing, nearest
from flowkit.recipe.describe import either, find_field, sections_of, tag_key, tag_of, takes_text, toml_value, type_words
from flowkit.recipe.recipe import Recipe

Kinds = tuple[type[Any], ...]
UNKNOWN_TAG = ("union_tag_invalid", "union_tag_not_found")


def mistakes(error: ValidationError, data: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong with it) for each key, in the order of the recipe: "optim.lr", "expected ..., found ..."."""
    found: dict[str, str] = {}
    for detail in _details(error, data):
        if detail["type"] == "impossible":
            return list(detail.get("ctx", {})["problems"])
        names, kinds, field = _locate(detail["loc"])
        for key, text in _explain(detail, data, names, kinds, field):
            found.setdefault(key, text)
    return list(found.items())


def _details(error: ValidationError, data: dict[str, Any]) -> Iterator[ErrorDetails]:
    """Pydantic's findings, and those inside a table whose kind could not be told (it looks no further there)."""
    for detail in error.errors(include_url=False):
        yield detail
        if detail["type"] in UNKNOWN_TAG and isinstance(detail["input"], dict):
            yield from _inside(detail["loc"], detail["input"])


def _inside(loc: tuple[int | str, ...], table: dict[str, Any]) -> Iterator[ErrorDetails]:
    """What else is wrong in a table of unknown kind, read as the first kind; keys of the others are no mistakes."""
    _, kinds, _ = _locate(loc)
    key = tag_key(kinds[0])
    try:
        kinds[0].model_validate({**table, str(key): tag_of(kinds[0])})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if not (
                detail["type"] == "extra_forbidden" and any(detail["loc"][0] in kind.model_fields for kind in kinds)
            ):
                yield {**detail, "loc": (*loc, *detail["loc"])}


def _locate(loc: tuple[int | str, ...]) -> tuple[list[str], Kinds, FieldInfo | None]:
    """A pydantic location as keys, the kinds of table that the last of them holds (or is in), and its field."""
    names: list[str] = []
    kinds: Kinds = (Recipe,)
    field = None
    for part in loc:
        owner = next((kind for kind in kinds if part in kind.model_fields), None)
        if owner is not None:
            names.append(str(part))
            field = owner.model_fields[str(part)]
            kinds = sections_of(field)
        elif len(kinds) > 1:  # the tag of one of the alternatives
            kinds = tuple(kind for kind in kinds if tag_of(kind) == part) or kinds
        else:
            break
    return names, kinds, field


def _explain(
    detail: ErrorDetails, data: dict[str, Any], names: list[str], kinds: Kinds, field: FieldInfo | None
) -> Iterator[tuple[str, str]]:
    if detail["type"] == "extra_forbidden":
        name = str(detail["loc"][-1])
        what = "unknown section" if not names and isinstance(detail["input"], dict) else "unknown key"
        yield ".".join([*names, name]), what + _suggestion(name, names, kinds)
    elif detail["type"] == "missing" and kinds:  # a whole section
        for kind in kinds[:1]:
            for key, inner in kind.model_fields.items():
                if inner.is_required():
                    yield f"{names[0]}.{key}", f"missing; expected {_expected(kinds, key, inner)}"
    elif detail["type"] == "missing" and names[-1:] == [detail["loc"][-1]]:
        assert field is not None
        yield ".".join(names), f"missing; expected {type_words(field)}"
    elif detail["type"] in UNKNOWN_TAG and isinstance(detail["input"], dict):
        yield _wrong_tag(detail["input"], names, kinds, by_name=isinstance(_given(data, names), str))
    else:
        assert field is not None
        value = data
        for depth, name in enumerate(names):
            if not isinstance(value, dict):  # a choice written as its name
                names = names[:depth]
                _, _, field = _locate(tuple(names))
                assert field is not None
                break
            value = value.get(name)
        yield ".".join(names), _wrong(value, field)


def _suggestion(name: str, names: list[str], kinds: Kinds) -> str:
    """Which alternative has that key, or which section, or what is near it in this one; else all that this one has."""
    field = find_field(names)
    others = [tag_of(kind) for kind in (sections_of(field) if field else ()) if name in kind.model_fields]
    if others:
        return f"; only {listing(map(repr, others))} {'has' if len(others) == 1 else 'have'} it"
    elsewhere = [f"{section}.{key}" for section, field in Recipe.model_fields.items() for kind in sections_of(field)
                 for key in kind.model_fields if key == name]  # fmt: skip
    if elsewhere:
        return "; did you mean " + " or ".join(map(repr, dict.fromkeys(elsewhere))) + "?"
    here = dict.fromkeys(key for kind in kinds for key in kind.model_fields)
    where = f"[{'.'.join(names)}] has" if names else "sections are"
    return nearest(name, here) or f"; {where} {listing(here)}"


def _given(data: dict[str, Any], names: list[str]) -> Any:
    """What the recipe has under those keys; None where it has nothing there."""
    value: Any = data
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _wrong_tag(table: dict[str, Any], names: list[str], kinds: Kinds, by_name: bool) -> tuple[str, str]:
    """`by_name`: the choice was written as its name alone, so that is the key at fault."""
    key = str(tag_key(kinds[0]))
    expected = _expected(kinds, key, None)
    if key not in table:
        return ".".join([*names, key]), f"missing; expected {expected}"
    near = nearest(table[key], map(tag_of, kinds)) if isinstance(table[key], str) else ""
    return ".".join(names if by_name else [*names, key]), f"expected {expected}, found {toml_value(table[key])}{near}"


def _expected(kinds: Kinds, key: str, field: FieldInfo | None) -> str:
    if field is None or key == tag_key(kinds[0]):
        return either(f'"{tag_of(kind)}"' for kind in kinds)
    return type_words(field)


def _wrong(value: Any, field: FieldInfo) -> str:
    words = type_words(field)
    hint = ""
    if isinstance(value, str):
        names = [name for name in words.split('"')[1::2] if name.isidentifier() and name.islower()]  # not "N epochs"
        hint = nearest(value, names) or _unquoted(value, words)
    elif takes_text(field) and not isinstance(value, dict | list):
        hint = f'; in quotes it is text: "{toml_value(value)}"'
    return f"expected {words}, found {toml_value(value)}{hint}"


def _unquoted(value: str, words: str) -> str:
    """A hint where the value is right but for its quotes (or its capital)."""
    if "number" in words:
        try:
            float(value)
        except ValueError:
            return ""
        return "; numbers stand without quotes"
    return f"; write {value.lower()}" if words == "true or false" and value.lower() in ("true", "false") else ""
