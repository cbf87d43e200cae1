"""`flowkit decode`: from samples to what people can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def decode(
    samples: Annotated[Path, typer.Argument(help="Samples or prepared data: a .safetensors with its .json.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default beside the samples.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    preview: Annotated[bool, typer.Option(help="Draw some of them in the terminal.")] = True,
) -> None:
    """Turn samples (or prepared data) back into what people can look at: an SVG each, and a contact sheet.

    [bold]Examples[/bold]

      flowkit decode water/samples.safetensors
      flowkit decode data/kanji.safetensors --limit 100 --out kanji-sheet/

    The kind of data says how it is decoded.
    """
    from flowkit.decode import decode as run_decode
    from flowkit.ui.progress import stage_bar
    from flowkit.ui.written import print_written

    with stage_bar("reading") as tell:
        decoded = run_decode(samples, out=out, limit=limit, tell=tell)
    print_written(decoded, "samples", "", preview)
