"""`flowkit recipes` and `flowkit new`: the recipes that come with flowkit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flowkit.errors import UserError


def recipes() -> None:
    """List the recipes that come with flowkit.

    [bold]Examples[/bold]

      flowkit recipes
      flowkit train quickstart
      flowkit new quickstart

    List every recipe key: flowkit train --keys
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flowkit.packaged import packaged_recipes, summary

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("name", style="cyan", no_wrap=True)
    table.add_column("summary")
    for name, path in packaged_recipes().items():
        table.add_row(name, Text(summary(path)))
    console.print(table)
    console.print(Text("\nTrain one: flowkit train NAME\nCopy one to edit: flowkit new NAME", "dim"))


def new(
    name: Annotated[
        str,
        typer.Argument(help="Name of a recipe from `flowkit recipes`.", metavar="NAME", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: NAME.toml in this folder.", show_default=False)
    ] = None,
) -> None:
    """Copy a recipe that comes with flowkit to a file of your own. Never overwrites a file.

    [bold]Examples[/bold]

      flowkit new quickstart
      flowkit new dit_sketch --out experiments/wide.toml

    List the recipes: flowkit recipes
    """
    from flowkit.packaged import packaged_recipe

    source = packaged_recipe(name)
    target = out or Path(source.name)
    if target.is_dir():
        target = target / source.name
    elif not target.suffix:
        target = target.with_suffix(".toml")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise UserError(f"{target}: this file already exists. Choose another one with --out") from None
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}). Choose another file with --out") from None
    print(f"{target}  copy of the recipe {source.stem}. Train it: flowkit train {shlex.quote(str(target))}")
