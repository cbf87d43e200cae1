"""Names and what they are, in two columns; and tables of settings in a line."""

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
    """Two columns; the second wraps. (Rich's Table would double the time that `flowkit inspect` takes to draw.)"""

    facts: Facts
    width: int = 12  # of the names, at least
    style: str = "dim"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = max([self.width, *(len(name) for name, _ in self.facts)]) + 2
        style = console.get_style(self.style)
        for name, shown in self.facts:
            # a plain string would be read for markup such as [bold]
            text = Text(shown) if isinstance(shown, str) else shown
            lines = console.render_lines(text, options.update_width(max(1, options.max_width - names)), pad=False)
            for i, line in enumerate(lines):
                yield Segment(f"{'' if i else name:<{names}}", style)
                yield from line
                yield Segment.line()


@dataclass(frozen=True)
class Settings:
    """`name value · name value`, broken into lines between pairs only."""

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
    """A table of settings, its own name first. `styles` of values by their keys."""
    parts = []
    for key, setting in table.items():
        label = Text() if key == "name" and isinstance(setting, str) and len(table) > 1 else Text(f"{key} ", "dim")
        parts.append(Text.assemble(label, (plain(setting), styles.get(key, otherwise))))
    return Settings(parts)


def plain(setting: Any) -> str:
    """A setting in a few words: tables by their name, long lists by their length."""
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
