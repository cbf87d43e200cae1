"""`flowkit prepare`: from files to a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="A folder, a .zip or a file: SVG, ControlSketch or stroke-3 .npz, Quick, Draw! .ndjson."),
    ],
    out: Annotated[Path, typer.Option(help="The data set to write: OUT.safetensors and OUT.json.")],
    size: Annotated[int, typer.Option(min=1, help="Cubic strokes a sketch.")] = 32,
    over: Annotated[str, typer.Option(help="Sketches of more cubics than that: fit, or leave-out.")] = "fit",
    max_per_class: Annotated[int | None, typer.Option(min=1, help="Only the first so many of each class.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the rows.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set of the same name.")] = False,
) -> None:
    """Turn files of drawings into a data set that `train` reads, with a table of what became of every one.

    Folders are classes: SOURCE/cat/12.svg is a cat. The kind of file is found out.

    A sketch of fewer cubics than --size has its longest ones split, without loss.
    One of more is fitted, and the fit error reported.

    [bold]Examples[/bold]

      flowkit prepare drawings/ --out data/drawings
      flowkit prepare kanji.zip --out data/kanji --over leave-out
      flowkit prepare quickdraw/ --out data/quickdraw --max-per-class 1000
      flowkit prepare ControlSketch/ --out data/controlsketch
    """
    from rich.console import Console

    from flowkit.sketch.prepare import prepare as run_prepare
    from flowkit.ui.prepare_view import reading_bar, summary

    with reading_bar() as progress:
        report = run_prepare(
            source, out, size=size, over=over, max_per_class=max_per_class, seed=seed, overwrite=overwrite, progress=progress
        )  # fmt: skip
    Console(highlight=False).print(summary(report))
