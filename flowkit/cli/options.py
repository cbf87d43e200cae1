"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Ckpt = Annotated[
    Path | None,
    typer.Option(
        "--ckpt",
        help="A run (its newest whole checkpoint is used), a checkpoint directory, or a .safetensors with its .json.",
        show_default=False,
    ),
]
Run = Annotated[Path | None, typer.Argument(help="The same as --ckpt.", metavar="RUN", show_default=False)]
Best = Annotated[
    bool, typer.Option("--best", help="Use the checkpoint with the lowest validation loss instead of the newest.")
]
Weights = Annotated[
    str, typer.Option(help="Weights to use: ema, raw, or one of several averages (ema:0.999, ema:power-0.05).")
]


def _trust(asked: bool) -> None:
    if asked:
        from flowkit.components import trust_everything

        trust_everything()


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        callback=_trust,
        help="Import what the file names by import path (my_package.solvers:AB3). That runs its code.",
    ),
]
SOLVER, GUIDANCE, MACHINE, OUTPUT = "Solver", "Guidance", "Machine", "Output"  # panels of --help

Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...", rich_help_panel=MACHINE)]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Samples per batch; default: depends on the device.", rich_help_panel=MACHINE)
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="euler, midpoint, heun, rk4, dopri5, sde or mean_flow, or a table: "
        "'{name = \"sde\", scale = 0.5}'; default: the recipe's.",
        rich_help_panel=SOLVER,
    ),
]
Grid = Annotated[
    str | None,
    typer.Option(
        help="Spacing of the steps in t: uniform, shifted, power or custom, or a table: '{name = \"shifted\", shift = 2}'.",
        rich_help_panel=SOLVER,
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Number of solver steps; default: the recipe's.", rich_help_panel=SOLVER)
]
Rtol = Annotated[
    float | None,
    typer.Option(help="Relative tolerance (dopri5).", rich_help_panel=SOLVER),
]
Atol = Annotated[float | None, typer.Option(help="Absolute tolerance (dopri5).", rich_help_panel=SOLVER)]


def named_checkpoint(run: Path | None, ckpt: Path | None, best: bool) -> Path:
    """What RUN or --ckpt names, or its best checkpoint. Raises UserError where none or both are given."""
    from flowkit.checkpoint import BEST, CHECKPOINTS
    from flowkit.errors import UserError

    if run is not None and ckpt is not None:
        raise UserError(f"--ckpt {ckpt}: {run} is given too; name one of them")
    named = run or ckpt
    if named is None:
        raise UserError("a checkpoint is missing: name a run, such as runs/quickstart, or --ckpt")
    if not best:
        return named
    if named.name == "recipe.toml" or (named.name == CHECKPOINTS and not (named / CHECKPOINTS).is_dir()):
        named = named.parent
    if not (named / CHECKPOINTS).is_dir():
        raise UserError(f"--best: {named} is not a run, which has {CHECKPOINTS}/; leave it out for this checkpoint")
    return named / CHECKPOINTS / BEST


def choice(option: str, text: str | None) -> str | dict[str, Any] | None:
    """A name as it is, a table parsed as TOML. Raises UserError."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    import tomllib

    from flowkit.errors import UserError

    try:
        return tomllib.loads(f"table = {text}")["table"]
    except tomllib.TOMLDecodeError as error:
        raise UserError(f'{option}: {text!r} is no TOML table ({error}); write {{name = "...", key = value}}') from None


def solver_choice(solver: str | None, rtol: float | None, atol: float | None) -> str | dict[str, Any] | None:
    """What --solver, --rtol and --atol say together; tolerances alone mean dopri5. Raises UserError."""
    table = choice("--solver", solver)
    tolerances = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    if not tolerances:
        return table
    return {**({"name": table or "dopri5"} if table is None or isinstance(table, str) else table), **tolerances}
