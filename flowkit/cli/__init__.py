"""The command line. Heavy imports are inside the commands, so that `flowkit --help` answers at once."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Any

import typer

from flowkit import __version__
from flowkit.cli import completion
from flowkit.cli.interrupts import handled, interruptible, status
from flowkit.encoding import replace_unencodable
from flowkit.errors import CheckpointSkipped, NotCompiled, PeerLost, UserError
from flowkit.ui.message import say

NARROW = 72  # columns; below this, --help puts what an option does on the line below its name
FORMAT = warnings.formatwarning
WRITTEN = "nothing was written. Run the same command to start again"
MAKE, USE, LOOK = "Make a model", "Use a model", "Inspect"  # panels of --help
# Name -> its module here, its panel of --help, and the message after an interrupt.
COMMANDS = {
    "recipes": ("recipes", MAKE, "nothing was written"),
    "new": ("recipes", MAKE, "nothing was written"),
    "train": ("train", MAKE, "the run has not begun"),
    "prepare": ("prepare", MAKE, WRITTEN),
    "ema": ("train", MAKE, WRITTEN),
    "sample": ("sample", USE, WRITTEN),
    "decode": ("decode", USE, WRITTEN),
    "evaluate": ("evaluate", USE, WRITTEN),
    "export": ("export", USE, WRITTEN),
    "demo": ("export", USE, "stopped"),
    "push": ("push", USE, "to continue an upload that had begun, run the same command with --update"),
    "runs": ("runs", LOOK, "nothing was written"),
    "compare": ("runs", LOOK, "nothing was written"),
    "report": ("runs", LOOK, WRITTEN),
    "inspect": ("look", LOOK, "nothing was written"),
    "doctor": ("look", LOOK, "nothing was written"),
}


def make_app(names: Iterable[str] = COMMANDS, *, listed: bool = False) -> typer.Typer:
    """Build the command line of these commands. The modules of the others are not imported.

    listed: the commands will be listed but not run, so their options are skipped. `--help` is ten times faster this way.
    """
    app = typer.Typer(
        help="Train flow-matching generative models from a TOML recipe. Turn samples into pictures or sentences.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_flowkit)  # with a callback, a single command still has to be called by its name
    for name in names:
        module, panel, kept = COMMANDS[name]
        command = getattr(import_module(f"flowkit.cli.{module}"), name)
        if listed:
            app.command(name, help=command.__doc__, rich_help_panel=panel)(lambda: None)
        else:
            app.command(rich_help_panel=panel)(interruptible(command, kept))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"flowkit {__version__}")
        raise typer.Exit()


def _flowkit(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'flowkit.cli' has no attribute {name!r}")
    globals()["app"] = app = make_app()
    return app


def _runs_no_command() -> bool:
    return len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help", "--version")


def _prepare_help() -> None:
    """Make `--help` faster and easier to read. Does nothing if the process prints no help.

    Typer's help imports a Markdown parser and a traceback printer that this app has turned off: two fifths of its time.
    They are replaced by stand-ins. Its table of options is replaced by one with two columns.
    """
    if not (_runs_no_command() or {"-h", "--help"} & set(sys.argv)):
        return
    for name, unused in (("rich.markdown", "Markdown"), ("rich.traceback", "Traceback")):
        stand_in = ModuleType(name)
        setattr(stand_in, unused, type(unused, (), {}))
        sys.modules.setdefault(name, stand_in)
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
    from typer import rich_utils

    class HelpTable(Table):
        def add_row(self, *cells: Any, **settings: Any) -> None:
            """Join an option's names and its type in one cell. Flags show no type."""
            if len(cells) > 2:
                names = [cell if isinstance(cell, Text) else Text(cell) for cell in cells[:-1]]
                shown = [name for name in names if name.plain not in ("", "*", "<bool>", "BOOLEAN")]
                for name in shown:
                    name.plain = name.plain.replace(" range", "").replace("list[str]", "str")
                cells = Text(" ").join(shown), cells[-1]
                if not self.columns:
                    self.add_column(no_wrap=True)
            super().add_row(*cells, **settings)

        def __rich_console__(self, console: Any, options: Any) -> Any:
            if console.width >= NARROW:
                yield from super().__rich_console__(console, options)
                return
            for name, meaning in zip(*(column.cells for column in self.columns), strict=True):
                yield name
                yield Padding(meaning, (0, 0, 0, 2))

    rich_utils.Table = HelpTable


def _resume_auto(arguments: list[str]) -> list[str]:
    """Replace `--resume auto` by `--resume-auto`, since `--resume` is a flag and takes no value."""
    for place, pair in enumerate(pairwise(arguments)):
        if pair == ("--resume", "auto"):
            return [*arguments[:place], "--resume-auto", *arguments[place + 2 :]]
    return arguments


def _warning(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """Format a warning, one of ours as a line without a place in the code."""
    return f"notice: {message}\n" if issubclass(category, NotCompiled) else FORMAT(message, category, *where, **line)


def main() -> None:
    """Run the command line. Bad input is one message on stderr and exit status 2."""
    replace_unencodable()
    _prepare_help()
    try:
        warnings.simplefilter("ignore", CheckpointSkipped)  # commands print it themselves
        warnings.formatwarning = _warning
        with handled():
            asked = sys.argv[1:2]
            if completion.VARIABLE in os.environ:  # the Tab key: the words so far are in a variable
                asked = [completion.asked_command(COMMANDS)]
            known = [name for name in asked if name in COMMANDS]
            make_app(known or COMMANDS, listed=not known and _runs_no_command())(args=_resume_auto(sys.argv[1:]))
    except UserError as error:
        # Under a launcher every process finds the same bad input. One per machine prints it: machines may differ.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            say("error", str(error), 31)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:  # before a command has started
        print("interrupted: nothing was done", file=sys.stderr)
        raise SystemExit(status()) from None
    except PeerLost as lost:
        print(lost, file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:  # `flowkit inspect runs/x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{where}: free some disk space, then run the same command again", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # stdout may be the file on the full disk
        raise SystemExit(1) from None
