"""`--help` in a narrow terminal: an option's names in a line, what it does below, in place of columns that are cut."""

from __future__ import annotations

import shutil
from typing import Any

NARROW = 72  # columns; in more Typer's table has room for all names


def stack_help_where_narrow() -> None:
    """Replace the tables of Typer's help where the terminal is narrow. Called only by a process that prints help."""
    if shutil.get_terminal_size().columns >= NARROW:
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
    from typer import rich_utils

    class Stacked(Table):
        def __rich_console__(self, console: Any, options: Any) -> Any:
            for cells in zip(*(column.cells for column in self.columns), strict=True):
                names = [cell if isinstance(cell, Text) else Text(cell) for cell in cells[:-1] if str(cell).strip()]
                yield Text(" ", overflow="fold").join(names)
                yield Padding(cells[-1], (0, 0, 0, 2))

    rich_utils.Table = Stacked
