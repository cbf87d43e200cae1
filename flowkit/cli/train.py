"""`flowkit train`: from a recipe to a run; and `flowkit ema`: an average of another width, after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.options import count
from flowkit.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from flowkit.recipe import Recipe
    from flowkit.recipe.describe import KeyRow

NARROW = 64  # columns of a terminal in which a key's meaning stands below it
OUT_OF_TIME = 75  # exit status where train.max_hours ended the run: EX_TEMPFAIL, "try again later"


def _print_keys(recipe: Path | None, overrides: Sequence[str]) -> None:
    """All keys; with a recipe, those of the components that it imports too."""
    from rich.console import Console

    if recipe is not None:
        _load(recipe, overrides)
    console = Console()
    console.print(keys_view(console.width))


def _load(recipe: Path, overrides: Sequence[str]) -> tuple[Recipe, Path | None]:
    from flowkit.checkpoint.run_dir import load_run_recipe
    from flowkit.components import trusting
    from flowkit.packaged import find_recipe

    with trusting():
        return load_run_recipe(find_recipe(recipe), overrides)


def keys_view(width: int = 80) -> Group:
    """All keys by section, each with its default, meaning and type; in a narrow terminal the meaning stands below."""
    from rich.console import Group
    from rich.text import Text

    from flowkit.recipe.describe import key_table

    rows = key_table()
    parts: list[RenderableType] = []
    for section in dict.fromkeys(row.section for row in rows):
        parts += [
            Text(f"[{section}]", style="bold"),
            _section([row for row in rows if row.section == section], width),
            Text(),
        ]
    return Group(*parts[:-1])


def _section(rows: list[KeyRow], width: int) -> Table | Group:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if width < NARROW:
        parts: list[RenderableType] = []
        for row in rows:
            parts.append(Text.assemble((f"  {row.key}  ", "cyan"), (row.default, "green")))
            parts.append(Padding(Text.assemble(row.description, (f"  ({row.type})", "dim")), (0, 0, 0, 4)))
        return Group(*parts)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, expand=False)
    table.add_column("key", style="cyan", no_wrap=True, min_width=19)
    table.add_column("default", style="green", no_wrap=True, min_width=14)
    table.add_column("meaning", overflow="fold")
    for row in rows:
        meaning = Text(row.description)
        meaning.append(f"  ({row.type})", style="dim")
        table.add_row(Text("  " + row.key), Text(row.default), meaning)
    return table


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe (TOML), or a run to resume or replace.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its newest whole checkpoint.")
    ] = False,
    resume_auto: Annotated[
        bool,
        typer.Option(
            "--resume-auto", help="Resume the run if it has a checkpoint, else start it. The same as --resume auto."
        ),
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Resume even if the recipe differs from the one the run was started with."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")] = False,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from another checkpoint's weights (fine-tuning).", metavar="CKPT")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors; metrics.jsonl is written anyway.")
    ] = False,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="List every recipe key and exit; with a recipe, those of its own components too."),
    ] = False,
) -> None:
    """Train a flow-matching model from a recipe.

    [bold]Examples[/bold]

      flowkit train recipes/quickstart.toml
      flowkit train recipes/points_quickstart.toml
      flowkit train recipes/dit_sketch.toml --set optim.lr=3e-4 --set run.seed=1
      flowkit train recipes/dit_text.toml --set data.source=data/mine.safetensors
      flowkit train recipes/dit_sketch.toml --resume
      flowkit train runs/dit-sketch --resume
      flowkit train recipes/dit_sketch.toml --resume auto
      torchrun --nproc-per-node 4 -m flowkit train recipes/dit_sketch.toml

    Every key of a recipe: flowkit train --keys

    [bold]Exit status[/bold]

      0 done, 2 bad input (one message says which), 75 train.max_hours is over,
      130, 143, 138 after SIGINT, SIGTERM, SIGUSR1: saved, continue with --resume;
      1 another process of the run has ended, or a defect (with its traceback).
    """
    if keys:
        return _print_keys(recipe, overrides or ())
    if recipe is None:
        raise typer.BadParameter("a recipe is missing, such as recipes/quickstart.toml", param_hint="RECIPE")
    from flowkit.distributed.launcher import end_with_launcher

    end_with_launcher()  # before torch is loaded, which takes seconds
    from flowkit.checkpoint.run_dir import what_is_kept

    loaded, run_dir = _load(recipe, overrides or ())
    try:
        _check_early(loaded, run_dir, resume=resume or resume_auto, overwrite=overwrite, init_from=init_from)
        from flowkit.training.train import train as run_training
        from flowkit.ui import listener
        from flowkit.ui.plain import QuietListener

        outcome = run_training(
            loaded,
            resume="auto" if resume_auto else resume,
            allow_changes=allow_changes,
            overwrite=overwrite,
            init_from=init_from,
            run_dir=run_dir,
            listeners=lambda: [QuietListener() if quiet else listener()],
        )
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop) or what_is_kept(run_dir or loaded.run.directory)) from None
    if outcome.reason == "interrupted" and outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)
    if outcome.reason == "already done" and not quiet:
        typer.echo(
            f"{outcome.run_dir}: all of its updates are done; raise train.steps or train.epochs to continue", err=True
        )
    if outcome.reason == "out of time":
        raise typer.Exit(OUT_OF_TIME)


def _check_early(
    recipe: Recipe, run_dir: Path | None, *, resume: bool, overwrite: bool, init_from: Path | None
) -> None:
    """Raise UserError for what can be said before torch is loaded, which takes seconds: mistakes of names and places.

    A run that exists, data or weights that do not, an architecture that does not fit the data. run_dir: the run's directory
    where that is not as the recipe says.
    """
    from flowkit.checkpoint import find_checkpoint, folders_of
    from flowkit.checkpoint.run_dir import open_run_dir
    from flowkit.data.dataset import data_files, read_sidecar
    from flowkit.data_source import open_data
    from flowkit.domain import builtin_sets, check_arch

    here, run_dir = run_dir is None, run_dir or recipe.run.directory
    if not resume and os.environ.get("RANK", "0") == "0":  # the others may come when the first has begun it
        open_run_dir(run_dir, resume=False, overwrite=overwrite)
    if init_from is not None:
        find_checkpoint(init_from)
    kind = builtin_sets().get(recipe.data.source)
    if kind is None:
        folders = (*([Path()] if here else []), *folders_of(run_dir, recipe.to_dict()), Path())
        places = [folder / recipe.data.source for folder in folders]
        found = next((place for place in places if data_files(place)[0].exists()), None)
        if found is None:
            open_data(recipe, folders)  # which says so
        else:
            kind = read_sidecar(found).get("kind")
    if isinstance(kind, str) and recipe.model.arch != "custom":
        check_arch(recipe.model.arch, kind)


def ema(
    run: Annotated[Path, typer.Argument(help="A run that was trained with ema.power.")],
    sigma_rel: Annotated[
        float, typer.Option(help="Width of the average over the length of the run so far: 0.05, 0.1, ... 0.2886.")
    ],
    step: Annotated[int | None, count("Step of the snapshot to end at. Default: the last one.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .safetensors file; default: in the run's folder ema/.")] = None,
) -> None:
    """Reconstruct the moving average of any width from a run's snapshots (EDM2, arXiv 2312.02696).

    [bold]Examples[/bold]

      flowkit ema runs/kanji --sigma-rel 0.13
      flowkit ema runs/kanji --sigma-rel 0.08 --step 40000 --out wide.safetensors
      flowkit sample --ckpt wide.safetensors

    The run needs ema.power = [0.05, 0.1], or other widths, and takes snapshots every ema.snapshot_every.
    """
    from flowkit.ema.post_hoc import reconstruct_ema

    made = reconstruct_ema(run, sigma_rel, step=step, out=out)
    print(
        f"{made.path}  sigma_rel {made.sigma_rel:g} at step {made.step:,}, of {made.snapshots} snapshots, "
        f"profile met within {made.error:.2%}"
    )
