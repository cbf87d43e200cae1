"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.cli.completion import complete_run
from flowkit.errors import UserError
from flowkit.registry import BUILT_IN

Ckpt = Annotated[
    Path | None,
    typer.Option(
        "--ckpt",
        help="A run (uses its newest complete checkpoint), a checkpoint folder, a .safetensors with its .json, or "
        "hf://user/name[@revision] on the Hugging Face Hub.",
        show_default=False,
        autocompletion=complete_run,
    ),
]
Run = Annotated[
    Path | None, typer.Argument(help="Same as --ckpt.", metavar="RUN", show_default=False, autocompletion=complete_run)
]
Best = Annotated[
    bool, typer.Option("--best", help="Use the checkpoint with the lowest validation loss instead of the newest.")
]
Weights = Annotated[
    str, typer.Option(help="ema, raw, or one of several averages, such as ema:0.999 or ema:power-0.05.")
]


def _names(kind: str) -> str:
    *most, last = BUILT_IN[kind]
    return f"{', '.join(most)} or {last}"


def _trust(asked: bool) -> None:
    if asked:
        from flowkit.components import trust_everything

        trust_everything()


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        callback=_trust,
        help="Allow the file to import code by path (my_package.solvers:AB3). This runs that code.",
    ),
]
SOLVER, GUIDANCE, MACHINE, OUTPUT = "Solver", "Guidance", "Machine", "Output"  # panels of --help


def count(help: str, *names: str, panel: str | None = None) -> Any:
    """Declare an option that is a whole number >= 1, written as in a recipe: 500, 1e3 or 2k."""
    return typer.Option(*names, parser=_count, metavar="N", help=help, rich_help_panel=panel)


def _count(text: Any) -> int:
    from flowkit.settings import whole_number

    try:
        number = whole_number(float(text))
    except ValueError:
        number = whole_number(text)
    if not isinstance(number, int) or number < 1:
        raise typer.BadParameter(f"expected a whole number >= 1, such as 500, 1e3 or 2k; found {text!r}")
    return number


Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...", rich_help_panel=MACHINE)]
BatchSize = Annotated[int | None, count("Samples per batch. Default: depends on the device.", panel=MACHINE)]


@dataclass(frozen=True)
class Drawing:
    """The options of every command that draws samples (see `draws`). None means: as in the recipe."""

    solver: Annotated[
        str | None,
        typer.Option(
            help=_names("solver") + ", or a table: '{name = \"sde\", scale = 0.5}'. Default: the recipe's.",
            rich_help_panel=SOLVER,
        ),
    ] = None
    steps: Annotated[int | None, count("Number of solver steps. Default: the recipe's.", panel=SOLVER)] = None
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance (dopri5).", rich_help_panel=SOLVER)] = None
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance (dopri5).", rich_help_panel=SOLVER)] = None
    grid: Annotated[
        str | None,
        typer.Option(
            help="Spacing of the steps in t: " + _names("grid") + ", or a table: '{name = \"shifted\", shift = 2}'.",
            rich_help_panel=SOLVER,
        ),
    ] = None
    state: Annotated[
        str | None,
        typer.Option(help="Precision of x between network calls: fp32 or fp64.", rich_help_panel=SOLVER),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(help="Precision of the network: fp32 or bf16. Default: the recipe's.", rich_help_panel=MACHINE),
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the network first, which takes up to a minute. Worth it for many samples. Default: the recipe's.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    guidance_scale: Annotated[
        str | None,
        typer.Option(
            "--guidance-scale",
            "-w",
            metavar="W",
            help="Guidance scale w in v_null + w (v_cond - v_null). 1 disables guidance. One for each kind: image=2,text=1.5. "
            "Default: the recipe's.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(
            help=_names("guidance") + ", or a table: '{name = \"cfg_zero\", zero_init = 0.1}'.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Guide only between these two times t, such as 0.2 0.8.",
            metavar="FROM TO",
            rich_help_panel=GUIDANCE,
        ),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: how far to rescale the guided velocity to the standard deviation of the conditional one.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None
    autoguidance: Annotated[
        Path | None,
        typer.Option(
            help="Guide away from this weaker model (a checkpoint) instead of the null condition.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]

    def changes(self) -> dict[str, Any]:
        """Return the given options as changes to a `SampleSettings`. Tolerances alone select dopri5. Raises UserError."""
        changes = {**vars(self), **{name: _choice(f"--{name}", getattr(self, name)) for name in ("solver", "grid")}}
        changes["guidance_scale"] = _scale(self.guidance_scale)
        tolerances = {name: value for name in ("rtol", "atol") if (value := changes.pop(name)) is not None}
        if tolerances:
            solver = changes["solver"] or "dopri5"
            changes["solver"] = {**({"name": solver} if isinstance(solver, str) else solver), **tolerances}
        weaker = changes.pop("autoguidance")
        if weaker is not None and self.guidance not in (None, "autoguidance"):
            raise UserError(f"--autoguidance and --guidance {self.guidance} are mutually exclusive")
        changes["guidance"] = (
            _choice("--guidance", self.guidance) if weaker is None else {"name": "autoguidance", "ckpt": str(weaker)}
        )
        return changes


def draws(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `drawing` of a command by the options of `Drawing`."""
    signature, options = inspect.signature(command, eval_str=True), inspect.signature(Drawing, eval_str=True).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        command(drawing=Drawing(**{name: given.pop(name) for name in options}), **given)

    parameters = [option for one in signature.parameters.values()
                  for option in (options.values() if one.name == "drawing" else [one])]  # fmt: skip
    called.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def named_checkpoint(run: Path | None, ckpt: Path | None, best: bool) -> Path:
    """Return what RUN or --ckpt names, or its best checkpoint. Raises UserError unless exactly one is given."""
    from flowkit.checkpoint import BEST, CHECKPOINTS

    if run is not None and ckpt is not None:
        raise UserError(f"{run} and --ckpt {ckpt} are mutually exclusive")
    named = run or ckpt
    if named is None:
        raise UserError("no checkpoint given. Name a run, such as runs/quickstart")
    if not best:
        return named
    if named.name == "recipe.toml" or (named.name == CHECKPOINTS and not (named / CHECKPOINTS).is_dir()):
        named = named.parent
    if not (named / CHECKPOINTS).is_dir():
        raise UserError(f"--best: requires a run, and {named} is not one (it has no {CHECKPOINTS}/). Leave out --best")
    return named / CHECKPOINTS / BEST


def weights_by_kind(files: list[str] | None, image: str | None, text: str | None) -> dict[str, Path] | None:
    """Return the files of --encoder-weights by kind: one FILE for the only encoder, or image=FILE and text=FILE."""
    found: dict[str, Path] = {}
    for one in files or ():
        kind, equals, path = one.partition("=")
        if not equals or kind not in ("image", "text"):
            if (image is None) == (text is None):
                raise UserError(f"--encoder-weights {one}: say which encoder it is for: image={one} or text={one}")
            kind, path = ("text" if image is None else "image"), one
        found[kind] = Path(path)
    return found or None


def _scale(text: str | None) -> float | dict[str, float] | None:
    """Return `2` as a number, and `image=2,text=1.5` as a table. Raises UserError."""
    try:
        if text is None or "=" not in text:
            return None if text is None else float(text)
        return {kind.strip(): float(w) for kind, w in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise UserError(
            f"-w {text}: expected a number, such as 2, or one for each kind of condition, such as image=2,text=1.5"
        ) from None


def _choice(option: str, text: str | None) -> str | dict[str, Any] | None:
    """Return a name as it is, and a table parsed as TOML. Raises UserError."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    import tomllib

    try:
        return tomllib.loads(f"table = {text}")["table"]
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f'{option}: {text!r} is not a TOML table ({error}). Expected {{name = "...", key = value}}'
        ) from None
