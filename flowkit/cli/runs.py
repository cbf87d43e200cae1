"""`flowkit runs`, `compare` and `report`: what runs there are, what differs between them, and all of it as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowkit.cli.completion import complete_run
from flowkit.errors import UserError

FOLDER = Path("runs")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def runs(
    folder: Annotated[
        Path, typer.Argument(help="Folder to search for runs, at any depth.", metavar="[FOLDER]")
    ] = FOLDER,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead, one object per run.")] = False,
) -> None:
    """List the runs below a folder: state, steps, losses and best evaluation figures.

    [bold]Examples[/bold]

      flowkit runs
      flowkit runs /scratch/me/runs
      flowkit runs --json | jq -r '.[] | select(.state == "interrupted") | .path'

    [bold]States[/bold]

      running       a process is training it
      done          all updates are done
      interrupted   it can be resumed
      broken        its files cannot be read; the reason is below the table

    Only files are read. Weights are not loaded.
    """
    from flowkit.runs import list_runs

    found = list_runs(folder)
    if json:
        from flowkit.cli.look import as_json

        print(as_json([run.to_json() for run in found]))
        return
    if not found:
        print(f"{folder}: no runs. Train one: flowkit train quickstart")
        return
    from rich.console import Console

    from flowkit.ui.runs_view import show_runs

    show_runs(found, Console(highlight=False))


def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Two or more runs.", metavar="RUN RUN...", autocompletion=complete_run)
    ],
    json: AsJson = False,
) -> None:
    """Compare runs: what differs in their recipes, losses and evaluation figures, and whether it is beyond chance.

    [bold]Examples[/bold]

      flowkit compare runs/quickstart runs/quickstart-2
      flowkit compare runs/a runs/b runs/c --json

    Each run is compared with the first one. Figures come from `flowkit evaluate` and must have been measured on the same rows.
    """
    from flowkit.runs import named_apart, open_run
    from flowkit.runs.comparison import compare as compare_runs
    from flowkit.runs.sessions import read_sessions

    if len(paths) < 2:
        raise UserError(f"compare: expected two or more runs, found {len(paths)}. List the runs: flowkit runs")
    found = [open_run(path) for path in paths]
    sessions = [(read_sessions(run.path) or [{}])[-1] for run in found]
    comparison = compare_runs(named_apart(found), sessions)
    if json:
        from flowkit.cli.look import as_json

        print(as_json(comparison.to_json()))
        return
    from rich.console import Console

    from flowkit.ui.compare_view import show_comparison

    show_comparison(comparison, Console(highlight=False))


def report(
    paths: Annotated[
        list[Path], typer.Argument(help="One or more runs.", metavar="RUN [RUN...]", autocompletion=complete_run)
    ],
    out: Annotated[Path, typer.Option(help="The page to write. An earlier one is replaced.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about runs: curves, samples over time, figures, recipes and their differences.

    [bold]Examples[/bold]

      flowkit report runs/quickstart
      flowkit report runs/a runs/b --out comparison.html

    The page needs no network, fits in an email (below 5 MB), and can be printed. It names the machine, the folder and the
    command of each run.
    """
    from flowkit.report import write_report
    from flowkit.runs import named_apart, open_run
    from flowkit.ui.quantities import size

    written = write_report(named_apart([open_run(path) for path in paths]), out)
    print(f"{written.path}  {size(written.bytes)}")
