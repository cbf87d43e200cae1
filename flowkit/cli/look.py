"""`flowkit inspect` and `flowkit doctor`: report on a file, and check this machine."""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.cli.completion import complete_recipe
from flowkit.cli.options import TrustCode
from flowkit.encoding import stdout_is_unicode


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run, a checkpoint, a .safetensors, samples, a recipe, or another file of a run.",
            metavar="PATH",
            autocompletion=complete_recipe,
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Show what is in a run, a checkpoint, a data set, a recipe or another file.

    [bold]Examples[/bold]

      flowkit inspect runs/quickstart
      flowkit inspect runs/quickstart/metrics.jsonl
      flowkit inspect runs/quickstart/checkpoints/best --json
      flowkit inspect data/kanji.safetensors
      flowkit inspect quickstart

    Weights are not loaded: only the headers of checkpoints are read.
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
        bool,
        typer.Option(
            "--self-test", help="Also train on two processes and compare with one process. Takes ten seconds."
        ),
    ] = False,
    runs: Annotated[Path, typer.Option(help="Folder for runs, the recipe's run.dir.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Check this machine: what it has, what would fail, and how to fix it.

    [bold]Examples[/bold]

      flowkit doctor
      flowkit doctor --self-test
      flowkit doctor --json | jq '.findings[] | select(.state == "problem")'

    Each line is ok, a note (something to know) or a problem (something that fails), with a fix.
    The self-test uses two GPUs if there are two, otherwise the CPU.

    Exit status: 0 without problems, 1 with at least one.
    """
    from flowkit.doctor import examine

    if json:
        report = examine(runs, self_test=self_test)
        print(as_json(report.to_dict()))
    else:
        from rich.console import Console

        from flowkit.ui.doctor_view import show

        waiting = "training on two processes and on one ..." if self_test else "importing the packages ..."
        with Console(stderr=True).status(waiting):
            report = examine(runs, self_test=self_test)
        show(report, Console(highlight=False))
    if report.problems:
        raise typer.Exit(1)


def as_json(report: dict[str, Any] | list[Any]) -> str:
    """Return the report as indented JSON. NaN and infinity become null, since JSON has neither."""
    return json_module.dumps(_strict(report), indent=2, ensure_ascii=not stdout_is_unicode(), allow_nan=False)


def _strict(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _strict(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(inner) for inner in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
