"""The run's directory: made, continued, or refused, by one process for all."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.checkpoint import CHECKPOINTS, END, LATEST, list_checkpoints
from flowkit.data.files import replacing, write_json
from flowkit.errors import UserError
from flowkit.training.run_lock import LOCK

if TYPE_CHECKING:
    from flowkit.recipe import Recipe

RECIPE = "recipe.toml"


def open_run_dir(recipe: Recipe, *, resume: bool, overwrite: bool) -> tuple[Path, Path | None]:
    """(run directory, checkpoint to continue from). Raises UserError for a run that exists, or that cannot be resumed."""
    run_dir = recipe.run.directory
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if resume:
        checkpoints = list_checkpoints(run_dir)
        if not checkpoints:
            raise UserError(f"{run_dir}: has no checkpoint to resume from; leave --resume out to start it")
        latest = run_dir / CHECKPOINTS / LATEST
        return run_dir, latest.resolve() if latest.is_dir() else checkpoints[-1]
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file, where the run's directory would be; choose another run.name or run.dir")
    if run_dir.exists() and any(path.name != LOCK for path in run_dir.iterdir()):
        if not overwrite:
            raise UserError(
                f"{run_dir}: this run exists. Continue it with --resume, replace it with --overwrite, "
                f"or give another name: --set run.name={_free_name(run_dir)}"
            )
        if not ((run_dir / RECIPE).exists() or (run_dir / CHECKPOINTS).exists()):
            raise UserError(f"{run_dir}: does not look like a run (no {RECIPE}), so --overwrite leaves it alone")
    return run_dir, None


def write_run_dir(run_dir: Path, recipe: Recipe, *, fresh: bool) -> None:
    """Save the resolved recipe with the run; a fresh run first clears what --overwrite gave up.

    Called when everything else about the run has been found in order, so that a recipe that fails costs no earlier run.
    Raises UserError where the directory cannot be written to.
    """
    from flowkit.recipe import dump_toml

    if fresh and run_dir.exists():
        try:
            # What a link points to is emptied, so that a run may lie on another disk.
            for path in run_dir.iterdir():
                if path.name == LOCK:
                    continue  # which this process holds
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise UserError(
                f"{run_dir}: cannot be cleared ({error.strerror or error}); remove it, or name another run"
            ) from None
    with replacing(run_dir / RECIPE) as partial:
        partial.write_text(dump_toml(recipe), "utf-8")
    (run_dir / END).unlink(missing_ok=True)


def write_end(run_dir: Path, step: int, reason: str) -> None:
    """Write down why a run has ended. All else is saved by then, so a disk that is full for that is no error."""
    with contextlib.suppress(UserError):
        write_json(run_dir / END, {"step": step, "reason": reason})


def _free_name(run_dir: Path) -> str:
    names = (f"{run_dir.name}-{number}" for number in itertools.count(2))
    return next(name for name in names if not (run_dir.parent / name).exists())
