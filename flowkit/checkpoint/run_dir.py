"""Create, resume or refuse a run directory. One process does it for all, and holds a lock meanwhile."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock, Timeout

from flowkit.checkpoint import (
    CHECKPOINTS,
    END,
    METRICS,
    RECIPE,
    SIDECAR,
    STARTED,
    CheckpointFiles,
    find_checkpoint,
    list_checkpoints,
    read_model_json,
)
from flowkit.checkpoint.state import check_resumable
from flowkit.data.files import replacing, write_json
from flowkit.errors import UserError
from flowkit.rng import NUMERICS

if TYPE_CHECKING:
    from flowkit.recipe import Recipe

LOCK = ".lock"  # in the run directory; the system releases it when the process ends
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # errors of file systems without locks
LOOKED_AT = 0.5  # seconds to wait for the lock at least: `flowkit runs` takes it for a moment, to see if it is held
HANDOVER = 60.0  # seconds that a resume waits for the previous process, which may still be saving
REPLACED = ".replaced"  # in the run directory: what --overwrite replaces, until the new run has begun


def load_run_recipe(path: Path | str, overrides: Sequence[str] = ()) -> tuple[Recipe, Path | None]:
    """Read the recipe at `path`, and return it with the run directory it belongs to.

    `path` may be a run directory, its recipe.toml, or any recipe file. The directory is None if the file is not a run's, or if
    `overrides` name another run. Keys that were renamed are translated in a run's recipe. Raises UserError as `load_recipe`.
    """
    from flowkit.recipe import load_recipe

    path = Path(path)
    run_dir = path.parent if path.name == RECIPE else path
    if (run_dir / RECIPE).is_file() and any((run_dir / name).exists() for name in (CHECKPOINTS, METRICS, STARTED)):
        path = run_dir / RECIPE
    else:
        run_dir = None
    recipe = load_recipe(path, overrides, saved=None if run_dir is None else _numerics(run_dir))
    named = {override.partition("=")[0].strip() for override in overrides}
    if run_dir is None or named & {"run", "run.name", "run.dir"}:
        return recipe, None
    return recipe, run_dir


def open_run_dir(run_dir: Path, *, resume: bool, overwrite: bool) -> CheckpointFiles | None:
    """Return the checkpoint to resume from. Raises UserError if the run exists already, or cannot be resumed."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite are mutually exclusive; give one of them")
    if resume:
        if not list_checkpoints(run_dir):
            raise UserError(f"{run_dir}: has no checkpoint to resume from; start the run without --resume")
        return find_checkpoint(run_dir, check=check_resumable)
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir}: is a file, not a run directory; choose another run.name or run.dir")
    if run_dir.exists() and any(path.name != LOCK for path in run_dir.iterdir()):
        if not overwrite:
            raise UserError(
                f"{run_dir}: this run already exists. Continue it with --resume, replace it with --overwrite, "
                f"or choose another name: --set run.name={_free_name(run_dir)}"
            )
        if not ((run_dir / RECIPE).exists() or (run_dir / CHECKPOINTS).exists()):
            raise UserError(f"{run_dir}: is not a run (no {RECIPE}), so --overwrite does not touch it")
    return None


def _numerics(run_dir: Path) -> int:
    """Return the version of the numerics of the run's newest checkpoint; the present one without a checkpoint."""
    saved = list_checkpoints(run_dir)
    try:
        return int(read_model_json(saved[-1] / SIDECAR).get("numerics", 1)) if saved else NUMERICS
    except (UserError, TypeError, ValueError):
        return NUMERICS


def saved_precision(run_dir: Path) -> str | None:
    """Return `train.precision` of the run's newest checkpoint; None without one. An unreadable one is reported elsewhere."""
    saved = list_checkpoints(run_dir)
    try:
        return read_model_json(saved[-1] / SIDECAR)["recipe"]["train"]["precision"] if saved else None
    except (UserError, LookupError, TypeError):
        return None


def what_is_kept(run_dir: Path) -> str:
    """Return what to tell the user about a run that was interrupted."""
    saved = list_checkpoints(run_dir)
    if saved:
        return (
            f"the last checkpoint is {saved[-1].name}; resume with: flowkit train {shlex.quote(str(run_dir))} --resume"
        )
    if (run_dir / RECIPE).is_file():
        return f"no checkpoint was saved; start again with: flowkit train {shlex.quote(str(run_dir))} --overwrite"
    return "the run has not begun and nothing was written; rerun the same command to start it"


@contextlib.contextmanager
def beginning(run_dir: Path, recipe: Recipe, *, fresh: bool) -> Iterator[Callable[[], None]]:
    """Save the resolved recipe with the run. A fresh run first sets aside what --overwrite replaces.

    Yields a function to call once the run has begun. A fresh run that ends before that leaves nothing, and what it was to
    replace is restored. Raises UserError if the directory cannot be written.
    """
    from flowkit.recipe import dump_toml

    replaced, begun = run_dir / REPLACED, False

    def done() -> None:
        nonlocal begun
        begun = True
        shutil.rmtree(replaced, ignore_errors=True)

    try:
        if fresh:
            try:
                # If the directory is a link, empty its target: the run may be on another disk.
                if replaced.is_dir():  # left by a start that was killed before the run began
                    _remove(run_dir)
                _move(run_dir, replaced)
            except OSError as error:
                raise UserError(
                    f"{run_dir}: cannot be cleared ({error.strerror or error}); remove it, or choose another run.name"
                ) from None
            write_json(run_dir / STARTED, {"folder": os.getcwd()})
        with replacing(run_dir / RECIPE) as partial:
            partial.write_text(dump_toml(recipe), "utf-8")
        (run_dir / END).unlink(missing_ok=True)
        yield done
    finally:
        if fresh and not begun:
            with contextlib.suppress(OSError):
                _remove(run_dir)
                if replaced.is_dir():
                    _move(replaced, run_dir)
                    replaced.rmdir()


def write_end(run_dir: Path, step: int, reason: str) -> None:
    """Record why a run ended. Everything else is saved by then, so a full disk is not an error here."""
    with contextlib.suppress(UserError):
        write_json(run_dir / END, {"step": step, "reason": reason})


def _contents(run_dir: Path) -> list[Path]:
    """Return everything but the lock, which this process holds, and what is set aside."""
    return [path for path in run_dir.iterdir() if path.name not in (LOCK, REPLACED)]


def _remove(run_dir: Path) -> None:
    for path in _contents(run_dir):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _move(source: Path, target: Path) -> None:
    """Move the contents of one folder into another."""
    for path in _contents(source) if source.is_dir() else ():
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)


def _free_name(run_dir: Path) -> str:
    names = (f"{run_dir.name}-{number}" for number in itertools.count(2))
    return next(name for name in names if not (run_dir.parent / name).exists())


class RunLock:
    """Lock on a run directory: two trainers in one directory would corrupt its checkpoints and metrics.

    The main process holds it from `take` to the end of the `with` block.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self._lock: FileLock | None = None
        self._made: list[Path] = []  # folders that were not there before

    def take(self, *, wait: float) -> None:
        """Take the lock unless it is held already. Raises UserError if another process holds it for `wait` more seconds."""
        if self._lock is not None:
            return
        lock = FileLock(self.run_dir / LOCK, thread_local=False)
        try:
            self._made = [path for path in (self.run_dir, *self.run_dir.parents) if not path.exists()]
            self.run_dir.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=max(wait, LOOKED_AT))
        except Timeout:
            raise UserError(
                f"{self.run_dir}: another process is training this run; wait for it, stop it, or choose another run.name"
            ) from None
        except NotImplementedError:
            return  # a file system without locks
        except OSError as error:
            if error.errno in NO_LOCKS:
                return
            raise UserError(
                f"{self.run_dir}: cannot be written ({error.strerror}); choose a writable run.dir"
            ) from None
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the directory may be gone
                if self._made and all(path.name == LOCK for path in self.run_dir.iterdir()):
                    (self.run_dir / LOCK).unlink()  # the run never began, so leave nothing
                    for path in self._made:
                        path.rmdir()
            with contextlib.suppress(OSError):
                self._lock.release()
