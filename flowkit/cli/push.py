"""`flowkit push`: upload a trained model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.options import Best, named_checkpoint


def push(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint folder, or a .safetensors file.", metavar="RUN")],
    repository: Annotated[str, typer.Argument(help="Name on the Hub, such as me/kanji-sketches.", metavar="USER/NAME")],
    best: Best = False,
    public: Annotated[bool, typer.Option("--public", help="Let anyone see the new model. Default: private.")] = False,
    license: Annotated[
        str | None, typer.Option(help="License for the model card, such as mit or cc-by-4.0. Asked for in a terminal.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Add a new version to an existing model.")] = False,
) -> None:
    """Upload a trained model to the Hugging Face Hub, with a model card.

    [bold]Examples[/bold]

      flowkit push runs/kanji me/kanji-sketches
      flowkit push runs/kanji me/kanji-sketches --best --update
      flowkit push runs/kanji me/kanji-sketches --public --license cc-by-4.0

    Uploads weights, settings, a picture of samples and a model card with the figures of `flowkit evaluate`. Absolute paths are
    shortened to file names. Log in once: hf auth login. Requires: pip install 'flowkit\\[hub]'

    To use the model: flowkit sample --ckpt hf://me/kanji-sketches
    """
    import sys

    from flowkit.publish import publish

    place = named_checkpoint(run, None, best)
    if license is None and sys.stdin.isatty() and sys.stderr.isatty():
        license = typer.prompt(
            "License, such as mit or cc-by-4.0 (empty for none)", default="", show_default=False, err=True
        )
    done = publish(place, repository, public=public, license=license or "", update=update)
    visible = {True: "public", False: "private", None: "new version"}[done.public]
    print(f"{done.url}  {visible}, {len(done.files)} files")
    if done.hidden:
        print(f"  shortened {done.hidden} absolute path{'s' * (done.hidden != 1)} in model.json to file names")
    print(f"next: flowkit sample --ckpt hf://{repository}")
