"""`flowkit train`: train a model from a recipe. `flowkit ema`: reconstruct an average of another width afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowkit.cli.completion import complete_recipe, complete_run
from flowkit.cli.options import count
from flowkit.errors import Interrupted, UserError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from flowkit.events import Listener
    from flowkit.recipe import Recipe
    from flowkit.recipe.describe import KeyRow
    from flowkit.training.profile import ProfileListener

NARROW = 64  # columns; below this, --keys puts a description on the line below its key
OUT_OF_TIME = 75  # exit status if train.max_hours ended the run: EX_TEMPFAIL, "try again later"


def _print_keys(recipe: Path | None, overrides: Sequence[str]) -> None:
    """Print all keys, including those of the components that `recipe` imports."""
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
    """Lay out all keys by section, each with its default, description and type."""
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
        typer.Argument(
            help="A recipe: a TOML file or a name from `flowkit recipes`. Or a run, to resume, replace or distill it.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe. May be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its newest complete checkpoint.")
    ] = False,
    resume_auto: Annotated[
        bool,
        typer.Option(
            "--resume-auto", help="Resume the run if it has a checkpoint, otherwise start it. Same as --resume auto."
        ),
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume even if the recipe has changed since the run started."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run of the same name.")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this checkpoint (fine-tuning).", metavar="CKPT", autocompletion=complete_run
        ),
    ] = None,
    distill: Annotated[
        bool,
        typer.Option(
            "--distill",
            help="Given a run: train a copy of its model that samples in one or a few steps, as the run NAME-distilled.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Build everything, run a few updates and a sample, print time, memory and disk needed. Writes nothing.",
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Profile ten updates: write a Chrome trace to profile/ in the run, and print where the time goes.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only errors. metrics.jsonl is still written.")
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="List every recipe key and exit. With a recipe, include the keys of its own components."
        ),
    ] = False,
) -> None:
    """Train a flow-matching model from a recipe.

    [bold]Examples[/bold]

      flowkit train quickstart
      flowkit train mine.toml
      flowkit train quickstart --set optim.lr=3e-4 --set run.seed=1
      flowkit train mlp_text --set data.source=data/mine
      flowkit train runs/quickstart --resume
      flowkit train quickstart --resume auto
      flowkit train runs/quickstart --distill
      flowkit train runs/quickstart --distill --set flow.objective.omega=2
      flowkit train dit_sketch --dry-run
      flowkit train dit_sketch --dry-run --profile
      torchrun --nproc-per-node 4 -m flowkit train dit_sketch

    List the recipes: flowkit recipes
    List every recipe key: flowkit train --keys

    [bold]Exit status[/bold]

      0    done
      2    bad input, explained in one message
      75   train.max_hours was reached
      130, 143, 138   stopped by SIGINT, SIGTERM, SIGUSR1
           (saved; continue with --resume)
      1    another process of the run failed, or a bug
    """
    if keys:
        return _print_keys(recipe, overrides or ())
    if recipe is None:
        raise typer.BadParameter(
            "missing. Name a recipe, such as quickstart. List them with: flowkit recipes", param_hint="RECIPE"
        )
    if distill:
        if init_from is not None:
            raise UserError("--distill: leave out --init-from; a student starts from its teacher's weights")
        overrides = [*_student(recipe, overrides or ()), *(overrides or ())]
    if dry_run and (
        given := [name for name, on in (("--resume", resume or resume_auto), ("--overwrite", overwrite)) if on]
    ):
        raise UserError(f"--dry-run and {given[0]} are mutually exclusive: a dry run always starts from the beginning")
    from flowkit.distributed.launcher import end_with_launcher

    end_with_launcher()  # before torch is loaded, which takes seconds
    from flowkit.checkpoint.run_dir import what_is_kept

    with _saying(quiet) as say:
        say("loading torch")
        loaded, run_dir = _load(recipe, overrides or ())
        try:
            anew = not (resume or resume_auto or dry_run)
            _check_early(loaded, run_dir, anew=anew, overwrite=overwrite, init_from=init_from)
            if dry_run:
                return _rehearse(loaded, run_dir, init_from, profile, say)
            from flowkit.training.train import train as run_training
            from flowkit.ui import listener
            from flowkit.ui.plain import QuietListener

            profiles: list[ProfileListener] = []

            def listeners() -> list[Listener]:
                say("")
                shown = QuietListener() if quiet else listener()
                if profile:
                    profiles.append(_profile_listener(shown))
                return [shown, *profiles]

            say("preparing data")
            outcome = run_training(
                loaded,
                resume="auto" if resume_auto else resume,
                allow_changes=allow_changes,
                overwrite=overwrite,
                init_from=init_from,
                run_dir=run_dir,
                listeners=listeners,
            )
        except KeyboardInterrupt as stop:
            raise Interrupted(str(stop) or what_is_kept(run_dir or loaded.run.directory)) from None
    for one in profiles:
        if one.result is not None:
            from rich.console import Console

            from flowkit.ui.rehearsal_view import show_profile

            show_profile(one.result, Console(highlight=False))
    if outcome.reason == "interrupted" and outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)
    if outcome.reason == "already done" and not quiet:
        typer.echo(f"{outcome.run_dir}: all updates are done. To continue, raise train.steps or train.epochs", err=True)
    if outcome.reason == "out of time":
        raise typer.Exit(OUT_OF_TIME)


def _student(run: Path, overrides: Sequence[str]) -> list[str]:
    """Return how the recipe of a student differs from that of its teacher, a run. It learns the teacher's guidance scale.

    overrides: the user's own, which come after these.
    """
    import json

    from flowkit.checkpoint import find_checkpoint

    try:
        files = find_checkpoint(run)
    except UserError as error:
        raise UserError(f"--distill: {error}") from None
    if files.run_dir is None:
        raise UserError(f"--distill: {run} is not a run. To distill a checkpoint, set flow.objective in a recipe to "
                        '{name = "distillation", teacher = "CHECKPOINT"}')  # fmt: skip
    teacher = _load(files.run_dir, ())[0]
    scale, changes = teacher.sample.guidance_scale, {"name": "distillation", "teacher": str(files.directory)}
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items())
    found = [
        f"run.name={teacher.run.name}-distilled",
        f"flow.objective={{{table}}}",
        "sample.solver=mean_flow",
        "sample.steps=4",
    ]
    removed = ["flow.prediction", "flow.given", "flow.loss", "aux_loss", "sample.grid", "sample.guidance",
               "sample.guidance_interval", "sample.guidance_rescale"]  # fmt: skip
    if not any(override.partition("=")[0].strip() == "flow.objective.omega_max" for override in overrides):
        removed.append("sample.guidance_scale")
        if not isinstance(scale, dict) and not teacher.sample.guidance.another and scale > 0:
            found.append(f"flow.objective.omega={scale}")
    return [*found, *(f"{key}=" for key in removed)]


def _rehearse(
    recipe: Recipe, run_dir: Path | None, init_from: Path | None, profile: bool, say: Callable[[str], None]
) -> None:
    from rich.console import Console

    from flowkit.training.rehearsal import rehearse
    from flowkit.ui.rehearsal_view import show_rehearsal

    found = rehearse(recipe, init_from=init_from, run_dir=run_dir, profile=profile, tell=say)
    say("")
    if os.environ.get("RANK", "0") == "0":
        show_rehearsal(found, Console(highlight=False))


def _profile_listener(shown: Listener) -> ProfileListener:
    import torch

    from flowkit.training.profile import ProfileListener

    return ProfileListener(lambda: torch.device("cuda" if torch.cuda.is_initialized() else "cpu"), shown)


@contextlib.contextmanager
def _saying(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that says in a terminal what takes so long. Whatever is printed next overwrites it."""
    shown = not quiet and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("LOCAL_RANK", "0") == "0"

    def say(doing: str) -> None:
        if shown:
            print(f"\r\x1b[K{doing}", end="\r", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        say("")


def _check_early(recipe: Recipe, run_dir: Path | None, *, anew: bool, overwrite: bool, init_from: Path | None) -> None:
    """Raise UserError for mistakes that can be found before the training code is loaded, which takes seconds.

    These are: a run that already exists, data or weights that do not exist, an architecture that does not fit the data.
    run_dir: the run's directory, if it is not the one that the recipe names. anew: the run must not exist yet.
    """
    from flowkit.checkpoint import find_checkpoint, folders_of
    from flowkit.checkpoint.run_dir import open_run_dir
    from flowkit.data.dataset import data_files, read_sidecar
    from flowkit.data_source import open_data
    from flowkit.domain import builtin_sets, check_arch

    here, run_dir = run_dir is None, run_dir or recipe.run.directory
    if anew and os.environ.get("RANK", "0") == "0":  # other ranks may get here after the first one has started the run
        open_run_dir(run_dir, resume=False, overwrite=overwrite)
    if init_from is not None:
        find_checkpoint(init_from)
    kind = builtin_sets().get(recipe.data.source)
    if kind is None:
        folders = (*([Path()] if here else []), *folders_of(run_dir, recipe.to_dict()), Path())
        places = [folder / recipe.data.source for folder in folders]
        found = next((place for place in places if data_files(place)[0].exists()), None)
        if found is None:
            open_data(recipe, folders)  # raises the UserError
        else:
            kind = read_sidecar(found).get("kind")
    if isinstance(kind, str) and recipe.model.arch != "custom":
        check_arch(recipe.model.arch, kind)


def ema(
    run: Annotated[
        Path, typer.Argument(help="A run trained with ema.power.", metavar="RUN", autocompletion=complete_run)
    ],
    sigma_rel: Annotated[
        float,
        typer.Option(
            help="Width of the average relative to the length of the run, such as 0.05 or 0.1. At most 0.2886."
        ),
    ],
    step: Annotated[int | None, count("Step at which the average ends. Default: the last snapshot.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output .safetensors file. Default: a new file in ema/ in the run.")
    ] = None,
) -> None:
    """Reconstruct a moving average of any width from a run's snapshots (EDM2, arXiv 2312.02696).

    [bold]Examples[/bold]

      flowkit ema runs/quickstart --sigma-rel 0.13
      flowkit ema runs/quickstart --sigma-rel 0.08 --step 1k --out a.safetensors
      flowkit sample a.safetensors

    The run's recipe must set ema.power, for example to [0.05, 0.1]. ema.snapshot_every sets how often snapshots are taken.
    """
    from flowkit.ema.post_hoc import reconstruct_ema

    made = reconstruct_ema(run, sigma_rel, step=step, out=out)
    print(
        f"{made.path}  sigma_rel {made.sigma_rel:g} at step {made.step:,}, from {made.snapshots} snapshots, "
        f"profile error {made.error:.2%}"
    )
