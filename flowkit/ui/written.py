"""What a command says when it has written samples: where they lie, how they were made, and a few of them drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowkit.decode import Decoded


def print_written(decoded: Decoded, noun: str, facts: str, preview: bool, also: Path | None = None) -> None:
    """Previews on stdout, then one line a fact. `also`: the samples file, where one was written."""
    from rich.console import Console

    from flowkit.ui.previews import preview_grid

    console = Console(highlight=False)
    if preview:
        for line in preview_grid(decoded.previews, console.width):
            console.print(line)
        console.print()
    sheets = [path for path in decoded.files if path.suffix == ".png"]
    rows = len(decoded.files) - len(sheets)
    if rows:
        console.print(f"[bold]{rows}[/bold] {noun} -> {decoded.out}/")
    for path in [*sheets, *([also] if also else [])]:
        console.print(f"  {path}")
    if facts:
        console.print(f"[dim]{facts}[/dim]")
