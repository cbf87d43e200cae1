"""`flowkit inspect`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.options import TrustCode


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A run, a checkpoint, a .safetensors file, a recipe, or a folder of samples.")
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Show what is in a run, a checkpoint, a weight file, a data set or a recipe, without loading it.

    [bold]Examples[/bold]

      flowkit inspect runs/kanji
      flowkit inspect runs/kanji/checkpoints/best/ema.safetensors --json
      flowkit inspect data/kanji.safetensors
      flowkit inspect recipes/quickstart.toml

    Only the headers of checkpoints are read.
    """
    from flowkit.inspect import inspect as run_inspect

    report = run_inspect(path)
    if json:
        from flowkit.inspect.as_json import as_json

        print(as_json(report))
        return
    from rich.console import Console

    from flowkit.ui.inspect_view import show

    show(report, Console(highlight=False))
