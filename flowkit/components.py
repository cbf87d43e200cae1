"""Components: the choices of a recipe. Each is one class whose fields are its settings and whose methods do its work.

A built-in one has a line in `flowkit.registry`. An external one is named by its import path, `"my_package.solvers:AB3"`, or
by an entry point in the group `flowkit.components` named by kind and name: "solver.ab3". Importing this module needs no
torch: a component's module is imported on first use.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from typing import Any, Literal, get_type_hints

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic import create_model as make_section
from pydantic_core import PydanticCustomError, core_schema

from flowkit.errors import UserError, listing, nearest
from flowkit.registry import BASES, BUILT_IN
from flowkit.settings import Section, wrong_value

GROUP = "flowkit.components"
# Arguments determined by the data and the objective, and so not in a recipe.
SIZES = {"input_dim", "num_strokes", "stroke_dim"}  # sizes of a row
ENCODED_SIZES = {"image_dim", "image_tokens", "text_dim"}  # sizes of the tokens of images and texts
FROM_DATA = {
    *SIZES,
    *ENCODED_SIZES,
    "shape",
    "num_classes",
    "clip_dim",
    "condition_dim",
    "two_times",
    "guided",
    "smooth_time",
    "completes",
    "augmented",
}
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:\w+(\.\w+)*")
_trusting: ContextVar[bool] = ContextVar("trusting", default=False)
_imported: dict[tuple[str, str], Any] = {}  # by kind and import path


class Component(Section):
    """A choice with its settings. The base class of each kind (`Path`, `Solver`, ...) documents its methods.

    Construct it with keywords, `Dopri5(rtol=1e-4)`. As plain data it is its name if all settings have their defaults, else a
    table: `"dopri5"`, `{"name": "dopri5", "rtol": 1e-4, ...}`. `choose` makes it from those.
    """

    @model_serializer(mode="wrap")
    def _shortest(self, handler: SerializerFunctionWrapHandler) -> Any:
        kind, settings = type(self), handler(self)
        required = any(field.is_required() for field in kind.model_fields.values())
        return name_of(kind) if not required and self == kind() else {"name": name_of(kind), **settings}

    @classmethod
    def tag(cls) -> str:
        return name_of(cls)


class Divides:
    """Annotates a parameter that must divide another one."""

    def __init__(self, total: str):
        self.total = total


@dataclass(frozen=True)
class Choose:
    """Annotates a field that holds a component of that kind, written as its name or a table with its settings.

    Wrong settings are reported by their own keys. Its other error types: "component_unknown", whose context has the wrong `key`,
    and "component_refused", whose message gives the reason.
    """

    kind: str
    key: str = "name"  # the key in a table that names the component

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(
            lambda value, info: value.model_dump(
                exclude_none=info.exclude_none, exclude_defaults=info.exclude_defaults
            ),
            info_arg=True,
        )
        return core_schema.no_info_plain_validator_function(self.build, serialization=dump)

    def build(self, value: Any) -> Any:
        """Return the component that a name or table describes; components are returned unchanged. Raises pydantic errors."""
        if isinstance(value, Section):
            base = Network if self.kind == "arch" else _base(self.kind)
            if base is None or isinstance(value, base):
                return value
            raise PydanticCustomError("component_refused", "is a {found}, not a valid {kind}", {
                "found": type(value).__name__, "kind": self.kind})  # fmt: skip
        table = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = table.pop(self.key, None)
        if not isinstance(name, str) or not (name in names(self.kind) or is_import_path(name)):
            raise PydanticCustomError("component_unknown", "unknown {kind}", {"kind": self.kind, "key": self.key})
        imported(self.kind, name)
        return section_of(self.kind, name).model_validate(table)

    def sections(self) -> tuple[type[Section], ...]:
        """Return the settings tables of all installed components of this kind."""
        return tuple(section_of(self.kind, name) for name in names(self.kind))


@dataclass(frozen=True)
class Known:
    """Annotates a name that is imported at once if it is an import path. Other names are not checked."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.look, handler(source))

    def look(self, name: str) -> str:
        if is_import_path(name):
            imported(self.kind, name)
        return name


def imported(kind: str, name: str) -> None:
    """Import a component. Raises the pydantic error "component_refused" if that is not allowed or fails."""
    try:
        find(kind, name)
    except UserError as error:
        raise PydanticCustomError("component_refused", "{text}", {"text": str(error)}) from None


def section_of(kind: str, name: str) -> type[Section]:
    """Return the settings table of a component: its class, or for a network its constructor's. Raises UserError as `find`."""
    found = find(kind, name)
    if isinstance(found, type) and issubclass(found, Section):
        return found
    return settings_of(name, found)


class Network(Section):
    """An architecture and its arguments that are in a recipe."""

    arch: str

    @classmethod
    def tag(cls) -> str:
        return cls.model_fields["arch"].default

    def arguments(self) -> dict[str, Any]:
        """Return keyword arguments for `create_model(arch, ...)`, without those that the domain adds from the data."""
        return self.model_dump(exclude={"arch"})

    def undivided(self) -> list[tuple[str, int, str, int]]:
        """Return (parts, their number, total, its size) for every total that is not divisible by its parts."""
        marks = ((name, mark.total) for name, field in type(self).model_fields.items() for mark in field.metadata
                 if isinstance(mark, Divides))  # fmt: skip
        pairs = ((parts, getattr(self, parts), total, getattr(self, total, 0)) for parts, total in marks)
        return [pair for pair in pairs if pair[3] % pair[1]]


class Custom(Network):
    """A module given to `flowkit.train(recipe, model=...)`."""

    arch: Literal["custom"] = "custom"  # pyright: ignore[reportIncompatibleVariableOverride]


@cache
def settings_of(arch: str, network: type, *, whole: bool = False) -> type[Network]:
    """Return the settings table of a network. whole: include the arguments determined by the data."""
    hints = get_type_hints(network.__init__, include_extras=True)
    fields = {
        name: (hints.get(name, Any), ... if parameter.default is Parameter.empty else parameter.default)
        for name, parameter in signature(network).parameters.items()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) and (whole or name not in FROM_DATA)
    }
    described = Field(
        default=arch, description='the architecture; "custom" is a module given to flowkit.train(recipe, model=...)'
    )
    return make_section(network.__name__, __base__=Network, arch=(Literal[arch], described), **fields)  # pyright: ignore


def choose(kind: str, choice: Any) -> Any:
    """Return the component for a name, a table with its settings, or a component. Raises UserError."""
    name = choice.get("name") if isinstance(choice, Mapping) else choice
    try:
        return Choose(kind).build(choice)
    except PydanticCustomError as error:
        if error.type == "component_refused":
            raise UserError(error.message()) from None
        raise UserError(
            f"unknown {kind} {name!r}; expected {listing(names(kind))}{nearest(str(name), names(kind))}"
        ) from None
    except ValidationError as error:
        raise UserError(f"{kind} {name!r}{wrong_setting(error, find(kind, str(name)))}") from None


def wrong_setting(error: ValidationError, section: type[Section]) -> str:
    """Describe the first wrong setting of a component: `: sigma is -1; expected a number > 0`."""
    detail = error.errors(include_url=False)[0]
    key, known = str(detail["loc"][0]) if detail["loc"] else "", dict(section.model_fields)
    known.pop("arch", None)
    if detail["type"] == "extra_forbidden":
        return f" has no setting {key!r}; it has {listing(known) or 'none'}{nearest(key, known)}"
    if detail["type"] == "missing":
        return f' needs {key}; write {{name = "{section.tag()}", {key} = ...}}'
    if not key or detail["type"] in ("value_error", "said"):
        return f": {detail['msg'].removeprefix('Value error, ')}"
    return f": {key}: {wrong_value(detail['input'], known[key])}"


def is_import_path(name: str) -> bool:
    """Return whether it looks like "package.module:Class"."""
    return _IMPORT_PATH.fullmatch(name) is not None


def names(kind: str) -> tuple[str, ...]:
    """Return the names of a kind's components: built-in, from installed packages, and imported by path so far."""
    return (*BUILT_IN[kind], *_registered(kind), *(path for of, path in _imported if of == kind))


def name_of(component: Any) -> str:
    """Return the name of a component from its class or function; its import path if it is not registered."""
    where = f"{component.__module__}:{component.__qualname__}"
    named = next((path for (_, path), found in _imported.items() if found is component), where)
    return _names().get(where, named)


@cache
def _names() -> dict[str, str]:
    return {where: name for kind in BUILT_IN for name, where in {**_registered(kind), **BUILT_IN[kind]}.items()}


@cache
def _registered(kind: str) -> dict[str, str]:
    """Return names and import paths of entry points."""
    parts = [(entry.name.partition("."), entry.value) for entry in entry_points(group=GROUP)]
    return {name: value for (of, _, name), value in parts if of == kind and name not in BUILT_IN[kind]}


def find(kind: str, name: str) -> Any:
    """Return a component's class (for a "loss" its function) by name or import path.

    Raises UserError for an unknown one, and for an import path that is not trusted (see `trusting`).
    """
    if name in BUILT_IN[kind]:
        module, _, inner = BUILT_IN[kind][name].partition(":")
        return getattr(import_module(module), inner)
    if name in (registered := _registered(kind)):
        return _import(kind, registered[name])
    if not is_import_path(name):
        what = "kind of data" if kind == "domain" else kind
        raise UserError(f"unknown {what} {name!r}; expected {listing(names(kind))}{nearest(name, names(kind))}")
    if (kind, name) not in _imported:
        if not _trusting.get():
            raise UserError(
                f"{kind} {name!r} is code from outside flowkit and is not imported by default; if you trust it, add "
                "--trust-code (from Python: trust_code=True)"
            )
        _imported[kind, name] = _import(kind, name)
    return _imported[kind, name]


def trust_everything() -> None:
    """Allow all import paths from now on, as --trust-code does."""
    _trusting.set(True)


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Allow import paths inside the block: those of the user's own recipe, or of a checkpoint whose code is trusted.

    Once imported, a component can be named from anywhere, since it is already in the process.
    """
    token = _trusting.set(trust or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


def _import(kind: str, path: str) -> Any:
    """Import a component from outside by its path. Raises UserError if it is not one of that kind."""
    module, _, inner = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as for `python -m`; last, so that it shadows nothing
    try:
        found: Any = import_module(module)
        for part in inner.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the module failed
        raise UserError(f"{kind} {path!r}: no module {error.name!r} is installed or in this folder") from None
    except AttributeError:
        raise UserError(f"{kind} {path!r}: {module} has no {inner!r}") from None
    base = _base(kind)
    if not (callable(found) if base is None else isinstance(found, type) and issubclass(found, base)):
        raise UserError(
            f"{kind} {path!r}: is not a {'function' if base is None else f'subclass of {base.__module__}.{base.__qualname__}'}"
        )
    return found


def _base(kind: str) -> type | None:
    """Return the base class of a kind's components; None for losses, which are functions."""
    if kind not in BASES:
        return None
    module, _, name = BASES[kind].partition(":")
    return getattr(import_module(module), name)
