"""HTML and SVG elements as text. Whatever is not markup already is escaped, so that no name or sentence can break a page."""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib import import_module
from typing import Any

VOID = {"br", "hr", "img", "input", "meta"}  # elements without content


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


Content = str | int | float | None | Iterable["Content"]


def element(name: str, /, *children: Content, **attributes: Any) -> Markup:
    """Return `<name attributes>children</name>`.

    children: text (escaped), markup, None (left out), or lists of those. attributes: `class_` is class, underscores
    are dashes; True is an attribute without a value, None and False leave it out.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Content, separator: str = "") -> Markup:
    """Return the children one after the other, escaped where they are not markup."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return Markup(html.escape(str(children), quote=False))
    return Markup(separator.join(text for child in children if (text := join(child))))


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


class ShownAsHtml:
    """A class whose objects notebooks show as HTML. What they show is in `flowkit.notebook`, which is imported then."""

    def _repr_html_(self) -> str:
        return import_module("flowkit.notebook").as_html(self)
