"""`flowkit doctor`: what this machine has, and what would fail on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
        from flowkit.inspect.as_json import as_json

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
