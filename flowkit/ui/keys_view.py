"""The table of all keys of a recipe, for `flowkit train --keys`."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowkit.recipe.describe import KeyRow, key_table

NARROW = 64  # columns


def print_keys() -> None:
    """Print the keys on stdout."""
    console = Console()
    console.print(keys_view(console.width))


def keys_view(width: int = 80) -> Group:
    """All keys by section, each with its default, meaning and type; in a narrow terminal the meaning stands below."""
    rows = key_table()
    parts: list[RenderableType] = []
    for section in dict.fromkeys(row.section for row in rows):
        parts += [
            Text(f"[{section}]", style="bold"),
            _section([row for row in rows if row.section == section], width),
            Text(),
        ]
    return Group(*parts[:-1])


def _section(rows: list[KeyRow], width: int) -> Table | Group:
    if width < NARROW:
        parts: list[RenderableType] = []
        for row in rows:
            parts.append(Text.assemble((f"  {row.key}  ", "cyan"), (row.default, "green")))
            parts.append(Padding(Text.assemble(row.description, (f"  ({row.type})", "dim")), (0, 0, 0, 4)))
        return Group(*parts)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, expand=False)
    table.add_column("key", style="cyan", no_wrap=True, min_width=19)
    table.add_column("default", style="green", no_wrap=True, min_width=14)
    table.add_column("meaning", overflow="fold")
    for row in rows:
        meaning = Text(row.description)
        meaning.append(f"  ({row.type})", style="dim")
        table.add_row(Text("  " + row.key), Text(row.default), meaning)
    return table
