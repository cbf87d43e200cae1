"""The command line. Every heavy import stands inside its command, so that `flowkit --help` answers at once."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import typer

from flowkit.cli.interrupts import handled, interruptible, status
from flowkit.encoding import speak_any_encoding
from flowkit.errors import PassedOver, PeerLost, UserError

NARROW = 72  # columns; in more Typer's table of options has room for all names
WRITTEN = "nothing was written; the same command starts again"
# Name -> its module here, its panel of --help, and what an interrupt leaves.
COMMANDS = {
    "train": ("train", "Make a model", "the run has not begun"),
    "sample": ("sample", "Use a model", WRITTEN),
    "decode": ("decode", "Use a model", WRITTEN),
    "prepare": ("prepare", "Make a model", WRITTEN),
    "evaluate": ("evaluate", "Use a model", WRITTEN),
    "ema": ("train", "Make a model", WRITTEN),
    "inspect": ("look", "Look", "nothing was written"),
    "doctor": ("look", "Look", "nothing was written"),
}


def make_app(names: Iterable[str] = COMMANDS, *, listed: bool = False) -> typer.Typer:
    """The command line of these commands; the modules of the others are not imported.

    listed: they are to be listed and not to be run, so that nobody looks at their options: a tenth of the time to `--help`.
    """
    app = typer.Typer(
        help="Train flow-matching generative models from a TOML recipe, and turn samples into pictures or sentences.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # so that a single command is still called by its name
    for name in names:
        module, panel, kept = COMMANDS[name]
        command = getattr(import_module(f"flowkit.cli.{module}"), name)
        if listed:
            app.command(name, help=command.__doc__, rich_help_panel=panel)(lambda: None)
        else:
            app.command(rich_help_panel=panel)(interruptible(command, kept))
    return app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'flowkit.cli' has no attribute {name!r}")
    globals()["app"] = app = make_app()
    return app


def _only_help() -> bool:
    """Whether the list of commands is asked for, and none of them."""
    return len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help")


def _prepare_help() -> None:
    """Keep `--help` from loading a Markdown parser and a traceback printer, two fifths of its time, which it never calls.

    Typer's help imports both at its top for markup and pretty exceptions that this app has turned off. Only a process that
    is about to print help and leave gets the stand-ins.
    """
    if not (_only_help() or {"-h", "--help"} & set(sys.argv)):
        return
    for name, unused in (("rich.markdown", "Markdown"), ("rich.traceback", "Traceback")):
        stand_in = ModuleType(name)
        setattr(stand_in, unused, type(unused, (), {}))
        sys.modules.setdefault(name, stand_in)
    _stack_help_where_narrow()


def _stack_help_where_narrow() -> None:
    """In a narrow terminal, an option's names in a line and what it does below, in place of columns that are cut."""
    if shutil.get_terminal_size().columns >= NARROW:
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
    from typer import rich_utils

    class Stacked(Table):
        def __rich_console__(self, console: Any, options: Any) -> Any:
            for cells in zip(*(column.cells for column in self.columns), strict=True):
                names = [cell if isinstance(cell, Text) else Text(cell) for cell in cells[:-1] if str(cell).strip()]
                yield Text(" ", overflow="fold").join(names)
                yield Padding(cells[-1], (0, 0, 0, 2))

    rich_utils.Table = Stacked


def _resume_auto(arguments: list[str]) -> list[str]:
    """`--resume auto` as `--resume-auto`: an option either takes a value or takes none."""
    for place, pair in enumerate(pairwise(arguments)):
        if pair == ("--resume", "auto"):
            return [*arguments[:place], "--resume-auto", *arguments[place + 2 :]]
    return arguments


def main() -> None:
    """Run the command line; bad input is one message on stderr and exit status 2."""
    speak_any_encoding()
    _prepare_help()
    try:
        warnings.simplefilter("ignore", PassedOver)  # commands say so themselves
        with handled():
            asked = [name for name in sys.argv[1:2] if name in COMMANDS]
            make_app(asked or COMMANDS, listed=_only_help())(args=_resume_auto(sys.argv[1:]))
    except UserError as error:
        # Under a launcher every process meets the same bad input; one on each machine says so, for what is bad may be its own.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:  # before a command has begun
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
        print(f"error: {error.strerror}{where}: make room on the disk, and run the same command again", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which may be the file that has no room
        raise SystemExit(1) from None
