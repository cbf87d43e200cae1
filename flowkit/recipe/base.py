"""What every section of a recipe shares: strict, frozen, no unknown keys; and the choices, "a name or a table"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """A table of the recipe. Strict: a bool is no number, a quoted number is no number; an int is fine for a float."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Choice(Section):
    """One of several named things with its own settings; subclasses declare `name: Literal["..."]` first."""

    @model_serializer(mode="wrap")
    def _shortest(self, handler: SerializerFunctionWrapHandler) -> Any:
        """The plain name where every setting has its default, else the whole table."""
        table = handler(self)
        if any(field.is_required() for field in type(self).model_fields.values()):
            return table
        return table["name"] if self == type(self)() else table


@dataclass(frozen=True)
class Says:
    """Put into a field's `Annotated`: how its type is put in words, for messages and for the table of keys."""

    words: str


def _table_from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _tuple_from_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# For `Annotated[SomeChoice, BY_NAME]`: lets "uniform" stand for {name = "uniform"}.
BY_NAME = BeforeValidator(_table_from_name)
# TOML has lists only; a frozen recipe holds tuples.
AS_TUPLE = BeforeValidator(_tuple_from_list)
