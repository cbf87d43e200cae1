"""Keys, their types in words, defaults and descriptions: all read off the types, nothing written twice."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from flowkit.recipe.base import Choice, Says, Section
from flowkit.recipe.interval import Length
from flowkit.recipe.recipe import Recipe


@dataclass(frozen=True)
class KeyRow:
    section: str
    key: str  # below the section: "lr", "times.mean"
    type: str  # in words
    default: str  # as it stands in TOML; "required", or "-" where nothing is set
    description: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.key}"


def key_table() -> list[KeyRow]:
    """Every key of a recipe, in the order of the sections."""
    return [row for name, field in Recipe.model_fields.items() for row in _rows(name, "", sections_of(field))]


def markdown_table() -> str:
    """The keys as a Markdown table, for the README."""
    lines = ["| Key | Type | Default | What it is |", "|---|---|---|---|"]
    for row in key_table():
        default = row.default if row.default in ("required", "-") else f"`{row.default}`"
        cells = (f"`{row.dotted}`", row.type, default, row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def sections_of(field: FieldInfo) -> tuple[type[Section], ...]:
    """The tables that a field may hold: its section, the members of its union, or none for a plain value."""
    return tuple(kind for kind in _alternatives(field) if isinstance(kind, type) and issubclass(kind, Section))


def find_field(names: Sequence[str]) -> FieldInfo | None:
    """The field that `section.key` names, of the first alternative that has it; None where there is none."""
    kinds: tuple[type[Section], ...] = (Recipe,)
    field = None
    for name in names:
        field = next((kind.model_fields[name] for kind in kinds if name in kind.model_fields), None)
        if field is None:
            return None
        kinds = sections_of(field)
    return field


def takes_text(field: FieldInfo) -> bool:
    """Whether any text may stand there (not one of a few words)."""
    return str in _alternatives(field)


def tag_key(kind: type[Section]) -> str | None:
    """The key by which a table is recognised among its alternatives: `arch` of a model, `name` of a choice."""
    return next((key for key in ("arch", "name") if get_origin(_annotation(kind, key)) is Literal), None)


def tag_of(kind: type[Section]) -> str:
    """What stands under that key: "logit_normal"."""
    key = tag_key(kind)
    assert key is not None, f"{kind.__name__} is no alternative"
    return get_args(_annotation(kind, key))[0]


def type_words(field: FieldInfo) -> str:
    """A field's type in words: `a number > 0`, `"cosine" or "constant"`."""
    for mark in field.metadata:
        if isinstance(mark, Says):
            return mark.words
    kinds = sections_of(field)
    if kinds:
        if not issubclass(kinds[0], Choice):
            return "a table"
        settings = any(len(kind.model_fields) > 1 for kind in kinds)
        return either(f'"{tag_of(kind)}"' for kind in kinds) + (", or a table with its settings" if settings else "")
    words = [_words(kind) for kind in _alternatives(field)]
    return either(word for word in words if not (word == "a whole number" and "a number" in words)) + _bounds(field)


def default_words(field: FieldInfo) -> str:
    """A field's default as it stands in TOML."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "-"
    return f"{default:.6g}" if isinstance(default, float) and len(repr(default)) > 8 else toml_value(default)


def toml_value(value: Any) -> str:
    """`value` as TOML would write it, on one line and not longer than a message bears."""
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, Length):
        value = value.plain()
    if isinstance(value, dict):
        return _cut("{" + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + "}")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return _cut("[" + ", ".join(map(toml_value, value)) + "]")
    try:
        return _cut(tomli_w.dumps({"v": value}).removeprefix("v = ").strip())
    except TypeError:  # from Python, what no TOML holds: None, an array
        return _cut(repr(value))


def _rows(section: str, prefix: str, kinds: tuple[type[Section], ...]) -> Iterator[KeyRow]:
    """Rows of one table; where it has alternatives, those keys that only some of them have say so."""
    with_settings = [kind for kind in kinds if len(kind.model_fields) > 1]
    for key in dict.fromkeys(key for kind in kinds for key in kind.model_fields):
        owners = [kind for kind in kinds if key in kind.model_fields]
        tags = [tag_of(kind) for kind in owners] if prefix or len(owners) < len(with_settings) else []
        field = owners[0].model_fields[key]
        if prefix and key == "name":
            continue  # of a choice: the row above has it
        words = type_words(field) if key != "arch" else either(f'"{tag_of(kind)}"' for kind in kinds)
        description = (
            (f"{', '.join(tags)}: " if tags else "") + (field.description or "") + _other_defaults(key, owners)
        )
        yield KeyRow(section, prefix + key, words.removeprefix("a "), default_words(field), description)
        if choices := sections_of(field):
            yield from _rows(section, f"{key}.", choices)


def _other_defaults(key: str, owners: Sequence[type[Section]]) -> str:
    """`; default of dit 3`: of alternatives whose default is not that of the first."""
    defaults = {kind: default_words(kind.model_fields[key]) for kind in owners}
    others = [f"{tag_of(kind)} {words}" for kind, words in defaults.items() if words != defaults[owners[0]]]
    return f"; default of {', of '.join(others)}" if others else ""


def _alternatives(field: FieldInfo) -> list[Any]:
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def _annotation(kind: type[Section], key: str) -> Any:
    return kind.model_fields[key].annotation if key in kind.model_fields else None


def _words(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return next(mark.words for mark in kind.__metadata__ if isinstance(mark, Says))
    if get_origin(kind) is Literal:
        return either(f'"{value}"' for value in get_args(kind))
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return plain.get(kind) or kind.words


def _bounds(field: FieldInfo) -> str:
    """` > 0`, ` >= 0 and < 1`: the range that the annotation sets, without bounds that only guard against overflow."""
    signs = ((Gt, ">", "gt"), (Ge, ">=", "ge"), (Lt, "<", "lt"), (Le, "<=", "le"))
    bounds = [
        (sign, getattr(mark, name)) for mark in field.metadata for kind, sign, name in signs if isinstance(mark, kind)
    ]
    shown = [f"{sign} {bound}" for sign, bound in bounds if abs(bound) < 10**6]
    if [sign for sign, _ in bounds] == [">=", "<="] and len(shown) == 2:
        return f" from {bounds[0][1]} to {bounds[1][1]}"
    return " " + " and ".join(shown) if shown else ""


def either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _cut(text: str, limit: int = 80) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 4] + " ..."
