"""Frozen, strict tables of settings, and their types, ranges and values in words. Torch-free."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from flowkit.errors import nearest

_MULTIPLE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([kM])")


class Section(BaseModel):
    """A table of settings. Strict: a bool or a quoted "2" is not a number. 2 is valid for 2.0, and 1e4 and "10k" for 10000."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_whole_numbers(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        whole = {name for name, field in cls.model_fields.items() if name in table and _takes_whole_numbers(field)}
        return {key: whole_number(value) if key in whole else value for key, value in table.items()}

    @classmethod
    def tag(cls) -> str:
        """Return the name that distinguishes it from its alternatives; "" if there are none."""
        return ""

    def plain(self) -> Any:
        """Return the settings as plain data for TOML."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Says:
    """Annotates a field with its type in words, for messages and the table of keys."""

    words: str


def whole_number(value: Any) -> Any:
    """Return 10000 for `1e4`, "10k" and "0.01M"; any other value as it is, for a validator to refuse."""
    match = _MULTIPLE.fullmatch(value) if isinstance(value, str) else None
    number = float(match[1]) * {"k": 1e3, "M": 1e6}[match[2]] if match else value
    return int(number) if isinstance(number, float) and number.is_integer() else value


# TOML only has lists; frozen settings hold tuples.
AS_TUPLE = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


def sections_of(field: FieldInfo) -> tuple[type[Section], ...]:
    """Return the tables that a field may hold: its section, the components of its kind, or none."""
    for mark in field.metadata:
        if (sections := getattr(mark, "sections", None)) is not None:
            return sections()
    return tuple(kind for kind in _alternatives(field) if isinstance(kind, type) and issubclass(kind, Section))


def takes_text(field: FieldInfo) -> bool:
    """Return whether any text is valid (not only some words)."""
    return any(str in (kind, *get_args(kind)[:1]) for kind in _alternatives(field))


def _takes_whole_numbers(field: FieldInfo) -> bool:
    """Return whether it takes integers and no other number, for which 1.0 might mean something else."""
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in _alternatives(field)]
    return int in kinds and float not in kinds


def type_words(field: FieldInfo) -> str:
    """Return a field's type in words: `a number > 0`, `"cosine" or "constant"`."""
    for mark in field.metadata:
        if isinstance(words := getattr(mark, "words", None), str):
            return words
    if sections := sections_of(field):
        if not sections[0].tag():
            return "a table"
        settings = any(kind.model_fields for kind in sections)
        return either(f'"{kind.tag()}"' for kind in sections) + (", or a table with its settings" if settings else "")
    words = [_words(kind) for kind in _alternatives(field)]
    return either(word for word in words if not (word == "a whole number" and "a number" in words)) + _bounds(field)


def default_words(field: FieldInfo) -> str:
    """Return a field's default as in TOML."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "-"
    return f"{default:.6g}" if isinstance(default, float) and len(repr(default)) > 8 else toml_value(default)


def wrong_value(value: Any, field: FieldInfo) -> str:
    """Return `expected a number > 0, found "2"; remove the quotes`."""
    words = type_words(field)
    hint = ""
    if isinstance(value, str):
        names = [name for name in words.split('"')[1::2] if name.isidentifier() and name.islower()]  # not "N epochs"
        hint = nearest(value, names) or _unquoted(value, words)
    elif takes_text(field) and not isinstance(value, dict | list):
        hint = f'; put it in quotes: "{toml_value(value)}"'
    return f"expected {words}, found {toml_value(value)}{hint}"


def toml_value(value: Any) -> str:
    """Format `value` as TOML on one line, cut to a length that fits a message."""
    if callable(plain := getattr(value, "plain", None)):
        value = plain()
    if isinstance(value, Mapping):
        return _cut("{" + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + "}")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return _cut("[" + ", ".join(map(toml_value, value)) + "]")
    try:
        return _cut(tomli_w.dumps({"v": value}).removeprefix("v = ").strip())
    except TypeError:  # a Python value without a TOML form, such as None or an array
        return _cut(repr(value))


def either(words: Iterable[str]) -> str:
    """Return `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _unquoted(value: str, words: str) -> str:
    """Return a hint for a value that is only wrong in its quotes or capitals."""
    if "number" in words:
        try:
            float(value)
        except ValueError:
            return ""
        return "; remove the quotes"
    return f"; write {value.lower()}" if words == "true or false" and value.lower() in ("true", "false") else ""


def _alternatives(field: FieldInfo) -> list[Any]:
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def _words(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        said = (mark.words for mark in kind.__metadata__ if isinstance(mark, Says))
        return next(said, None) or _words(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return either(f'"{value}"' for value in get_args(kind))
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return plain.get(kind) or getattr(kind, "words", "a value")


def _bounds(field: FieldInfo) -> str:
    """Return the range in the annotation: ` > 0`, ` >= 0 and < 1`. Leaves out bounds against overflow."""
    signs = ((Gt, ">", "gt"), (Ge, ">=", "ge"), (Lt, "<", "lt"), (Le, "<=", "le"))
    bounds = [
        (sign, getattr(mark, name)) for mark in field.metadata for kind, sign, name in signs if isinstance(mark, kind)
    ]
    shown = [f"{sign} {bound}" for sign, bound in bounds if abs(bound) < 10**6]
    if [sign for sign, _ in bounds] == [">=", "<="] and len(shown) == 2:
        return f" from {bounds[0][1]} to {bounds[1][1]}"
    return " " + " and ".join(shown) if shown else ""


def _cut(text: str, limit: int = 80) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 4] + " ..."
