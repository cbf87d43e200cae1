"""The keys of a recipe with their types in words, defaults and descriptions, all derived from the types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from flowkit.components import Choose, names
from flowkit.recipe.recipe import Recipe, described_loss
from flowkit.settings import Section, default_words, either, sections_of, type_words


@dataclass(frozen=True)
class KeyRow:
    section: str
    key: str  # below the section: "lr", "times.mean"
    type: str  # in words
    default: str  # in TOML; "required", or "-" if unset
    description: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.key}"


def key_table() -> list[KeyRow]:
    """Return every key of a recipe, section by section, including the keys of installed components."""
    rows = [row for name, field in Recipe.model_fields.items() for row in _rows(name, "", sections_of(field))]
    imported = [name for name in names("loss") if f"aux_loss.{name}" not in {row.dotted for row in rows}]
    at = max(place for place, row in enumerate(rows, start=1) if row.section == "aux_loss")
    rows[at:at] = [
        KeyRow("aux_loss", f'"{name}"', "number >= 0", "0.0", described_loss(name).description or "")
        for name in imported
    ]
    return rows


def markdown_table() -> str:
    """Return the keys as a Markdown table."""
    lines = ["| Key | Type | Default | What it is |", "|---|---|---|---|"]
    for row in key_table():
        default = row.default if row.default in ("required", "-") else f"`{row.default}`"
        cells = (f"`{row.dotted}`", row.type, default, row.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def find_field(names: Sequence[str], section: type[Section] = Recipe) -> FieldInfo | None:
    """Return the field at these keys, in the first alternative that has it; None if there is none."""
    kinds: tuple[type[Section], ...] = (section,)
    field = None
    for name in names:
        field = next((kind.model_fields[name] for kind in kinds if name in kind.model_fields), None)
        if field is None:
            return None
        kinds = sections_of(field)
    return field


def naming_key(field: FieldInfo | None) -> str | None:
    """Return the key that names the component in a table: "name", or "arch" for a model; None for other fields."""
    marks = () if field is None else field.metadata
    return next((mark.key for mark in marks if isinstance(mark, Choose)), None)


def _rows(section: str, prefix: str, kinds: tuple[type[Section], ...]) -> Iterator[KeyRow]:
    """Yield the rows of one table. Keys that only some of its alternatives have name those."""
    with_settings = [kind for kind in kinds if kind.model_fields.keys() - {"arch"}]
    for key in dict.fromkeys(key for kind in kinds for key in kind.model_fields):
        owners = [kind for kind in kinds if key in kind.model_fields]
        tags = [kind.tag() for kind in owners if kind.tag()] if prefix or len(owners) < len(with_settings) else []
        field = owners[0].model_fields[key]
        choices = sections_of(field)
        if choices and not choices[0].tag():  # a table of its own, not a choice
            yield from _rows(section, f"{prefix}{key}.", choices)
            continue
        of_arch = key == "arch"
        words = either(f'"{kind.tag()}"' for kind in kinds) if of_arch else type_words(field)
        default = "required" if of_arch else default_words(field)
        description = field.description or ""
        if not of_arch:
            description = (f"{', '.join(tags)}: " if tags else "") + description + _other_defaults(key, owners)
        yield KeyRow(section, prefix + key, words.removeprefix("a "), default, description)
        if choices:
            yield from _rows(section, f"{prefix}{key}.", choices)


def _other_defaults(key: str, owners: Sequence[type[Section]]) -> str:
    """Return `; default of dit 3`, for alternatives whose default differs from the first one's."""
    defaults = {kind: default_words(kind.model_fields[key]) for kind in owners}
    others = [f"{kind.tag()} {words}" for kind, words in defaults.items() if words != defaults[owners[0]]]
    return f"; default of {', of '.join(others)}" if others else ""
