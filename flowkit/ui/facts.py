"""Names and their values in two columns, and tables of settings in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

Facts = list[tuple[str, RenderableType]]


@dataclass(frozen=True)
class FactsBlock:
    """Two columns, of which the second wraps. Rich's Table would take twice the time to draw."""

    facts: Facts
    width: int = 12  # least width of the names
    style: str = "dim"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = max([self.width, *(len(name) for name, _ in self.facts)]) + 2
        style = console.get_style(self.style)
        for name, shown in self.facts:
            # Rich would read markup such as [bold] in a plain string
            text = Text(shown) if isinstance(shown, str) else shown
            lines = console.render_lines(text, options.update_width(max(1, options.max_width - names)), pad=False)
            for i, line in enumerate(lines):
                yield Segment(f"{'' if i else name:<{names}}", style)
                yield from line
                yield Segment.line()


@dataclass(frozen=True)
class Settings:
    """`name value · name value`, with line breaks only between pairs."""

    parts: list[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for part in self.parts:
            if line and line.cell_len + 3 + part.cell_len > options.max_width:
                yield line
                line = Text()
            if line:
                line.append(" · ", "dim")
            line.append_text(part)
        yield line


def settings(table: dict[str, Any], styles: Mapping[str, str] = MappingProxyType({}), otherwise: str = "") -> Settings:
    """Show a table of settings. `styles` are styles of values by key, `otherwise` that of the rest."""
    parts = []
    for key, setting in table.items():
        label = Text() if key == "name" and isinstance(setting, str) and len(table) > 1 else Text(f"{key} ", "dim")
        parts.append(Text.assemble(label, (plain(setting), styles.get(key, otherwise))))
    return Settings(parts)


def plain(setting: Any) -> str:
    """Describe a setting briefly: a table by its name, a long list by its length."""
    match setting:
        case {"name": str(name), **rest}:
            return f"{name} ({_pairs(rest)})" if rest else name
        case dict():
            return _pairs(setting) or "none"
        case list() | tuple() if len(setting) > 8 or any(isinstance(one, list) for one in setting):
            return f"{len(setting):,} values"
        case list() | tuple():
            return "[" + ", ".join(map(plain, setting)) + "]" if setting else "none"
        case bool():
            return "yes" if setting else "no"
        case float():
            return f"{setting:.6g}"
        case None:
            return "none"
    return str(setting)


def _pairs(table: dict[str, Any]) -> str:
    return ", ".join(f"{key} {plain(setting)}" for key, setting in table.items())
