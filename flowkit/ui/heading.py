"""A line across the terminal, with a title at its left and a remark at its right."""

from __future__ import annotations

from rich.text import Text


def heading(title: str, remark: str, width: int) -> Text:
    line = Text.assemble(("── ", "bright_black"), (title, "bold cyan"), " ")
    room = width - line.cell_len - len(remark) - 4
    if room < 1 or not remark:
        return line.append("─" * max(0, width - line.cell_len), "bright_black")
    return line.append("─" * room, "bright_black").append(f" {remark} ", "dim").append("──", "bright_black")
