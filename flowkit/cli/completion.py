"""What the shell completes: runs, recipes and the class names of a checkpoint. Torch-free, and quiet about whatever is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from flowkit.errors import UserError

RUNS = Path("runs")  # where runs are if nothing is typed yet
DEPTH, FOLDERS = 3, 2000  # limits on the search: the Tab key must answer at once
VARIABLE = "_FLOWKIT_COMPLETE"  # set by the shell's completion function
WORDS = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")  # of bash; of zsh, fish and PowerShell


def asked_command(names: object) -> str | None:
    """Return which of these commands is being completed; None if it is not typed yet, or the shell asks for nothing."""
    typed = next((os.environ[name] for name in WORDS if os.environ.get(name)), "").split()
    return typed[1] if len(typed) > 1 and typed[1] in names else None  # pyright: ignore[reportOperatorIssue]


def complete_run(incomplete: str) -> list[str]:
    """Return the runs whose paths begin with what is typed. If none does, the shell completes files."""
    folder = Path(incomplete).expanduser() if incomplete.endswith("/") else Path(incomplete).expanduser().parent
    if "/" not in incomplete:
        folder = RUNS
    # Paths begin as they were typed: ./ and ~ stay.
    typed = incomplete[: incomplete.rfind("/") + 1]
    found = [f"{typed}{path.relative_to(folder)}" if typed else str(path) for path in _runs(folder)]
    return sorted(path for path in found if path.startswith(incomplete))


def complete_recipe(incomplete: str) -> list[str]:
    """Return recipes of the package by name, the current folder's recipe files, and runs."""
    from flowkit.packaged import packaged_recipes

    names = [*packaged_recipes(), *(path.name for path in sorted(Path().glob("*.toml")))]
    return [name for name in names if name.startswith(incomplete)] + complete_run(incomplete)


def complete_class(context: typer.Context, incomplete: str) -> list[str]:
    """Return the class names of the checkpoint that the command line names so far, and `all` and `null`."""
    from flowkit.checkpoint import find_checkpoint, read_model_json

    # The option that is being completed has no value yet, so some words before it are left unread.
    for named in (context.params.get("ckpt"), context.params.get("run"), *context.args):
        if not named or str(named).startswith("-"):
            continue
        try:
            names = read_model_json(find_checkpoint(Path(named).expanduser()).sidecar).get("class_names") or []
        except (UserError, OSError):
            continue
        return [name for name in ("all", "null", *names) if name.startswith(incomplete)] if names else []
    return []


def _runs(folder: Path) -> Iterator[Path]:
    """Yield the runs at or below a folder, as far as the limits allow. Files that cannot be read are passed over."""
    from flowkit.runs import is_run

    with suppress(OSError):
        for number, (place, folders, files) in enumerate(os.walk(folder)):
            path = Path(place)
            if is_run(folders, files):
                folders.clear()
                yield path
            if number >= FOLDERS:
                return
            if len(path.relative_to(folder).parts) >= DEPTH:
                folders.clear()
            folders[:] = sorted(name for name in folders if not name.startswith("."))
