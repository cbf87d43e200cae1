"""`flowkit inspect` and `flowkit doctor`: what is in a file, what is on this machine."""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.cli.options import TrustCode
from flowkit.encoding import takes_unicode


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
        print(as_json(report))
        return
    from rich.console import Console

    from flowkit.ui.inspect_view import show

    show(report, Console(highlight=False))


def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also train on two processes, and compare with one: ten seconds.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="The folder that runs are to be written to, as run.dir says.")] = Path(
        "runs"
    ),
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead.")] = False,
) -> None:
    """Say what this machine has, what would fail on it, and how to mend that.

    [bold]Examples[/bold]

      flowkit doctor
      flowkit doctor --self-test
      flowkit doctor --json | jq '.findings[] | select(.state == "problem")'

    Each line is ok, a note (something to know) or a problem (something that fails), with what mends it.
    The self-test uses two GPUs where there are two, and the CPU otherwise.

    Exit status: 0 where there is no problem, 1 where there is one.
    """
    from flowkit.doctor import examine

    if json:
        report = examine(runs, self_test=self_test)
        print(as_json(report.to_dict()))
    else:
        from rich.console import Console

        from flowkit.ui.doctor_view import show

        waiting = "training on two processes, and on one ..." if self_test else "trying the packages ..."
        with Console(stderr=True).status(waiting):
            report = examine(runs, self_test=self_test)
        show(report, Console(highlight=False))
    if report.problems:
        raise typer.Exit(1)


def as_json(report: dict[str, Any]) -> str:
    """One object, indented. NaN and infinity, which JSON does not have, become null."""
    return json_module.dumps(_strict(report), indent=2, ensure_ascii=not takes_unicode(), allow_nan=False)


def _strict(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _strict(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(inner) for inner in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
