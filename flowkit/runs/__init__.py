"""What the runs on a disk are and how far they are: found and summarized from their files. Torch-free.

Nothing here raises for a damaged run. What is wrong with it is in its summary.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowkit.checkpoint import (
    CHECKPOINTS,
    END,
    METRICS,
    RECIPE,
    STARTED,
    checkpoint_step,
    find_checkpoint,
    list_checkpoints,
    read_model_json,
)
from flowkit.data.files import read_bounded, read_json
from flowkit.errors import UserError, nearest
from flowkit.inspect.metrics import metrics_report
from flowkit.renamed import translated
from flowkit.runs.evaluations import EvaluationResults, best_of, read_evaluations

LOCK = ".lock"  # of flowkit.checkpoint.run_dir, which needs filelock
MAX_RECIPE = 1 << 20  # bytes
RUNNING, INTERRUPTED, DONE, BROKEN = "running", "interrupted", "done", "broken"


@dataclass(frozen=True)
class RunSummary:
    """One run. What is not known is None: a run that has just begun has no loss, a broken one may have nothing at all."""

    path: Path
    name: str  # relative to the folder that was searched
    state: str  # "running" | "interrupted" | "done" | "broken"
    reason: str  # why it ended, or what is broken; empty while it runs
    arch: str | None
    data: str | None  # the data source
    step: int | None  # the last step that was logged or saved
    total_steps: int | None
    loss: float | None  # of the last log step
    validation: dict[str, Any] | None  # the last validation: its line of metrics.jsonl
    best_validation: dict[str, Any] | None  # the line with the lowest validation loss
    seconds: float | None  # of training, in all sessions
    recipe: dict[str, Any]  # its tables; empty if it cannot be read
    sidecar: dict[str, Any]  # model.json of its newest usable checkpoint
    evaluations: tuple[EvaluationResults, ...]  # newest last
    remarks: tuple[str, ...]  # what is damaged but does not break the run

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able summary that `flowkit runs --json` prints."""
        best, last = self.best_validation or {}, self.validation or {}
        return {
            "name": self.name, "path": str(self.path), "state": self.state, "reason": self.reason, "arch": self.arch,
            "data": self.data, "step": self.step, "total_steps": self.total_steps, "seconds": self.seconds,
            "loss": self.loss, "validation_loss": last.get("val_loss"), "zero_loss": last.get("val_zero_loss"),
            "best_validation_loss": best.get("val_loss"), "best_step": best.get("step"),
            "figures": {key: {"name": best.figure.name, "good": best.figure.good, "evaluation": best.evaluation,
                              **asdict(best.figure.samples)}
                        for key, best in best_of(self.evaluations).items() if best.figure.samples is not None},
            "evaluations": len(self.evaluations), "remarks": list(self.remarks),
        }  # fmt: skip


def list_runs(folder: Path) -> list[RunSummary]:
    """Summarize all runs below `folder`, or `folder` itself if it is a run, in the order of their names.

    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        what = "is a file, not a folder of runs" if folder.exists() else "no such folder"
        hint = "Name the folder of your runs, or train one: flowkit train quickstart"
        raise UserError(f"{folder}: {what}. {hint}")
    found = sorted(find_runs(folder), key=lambda path: path.parts)
    return [summarize(path, str(path.relative_to(folder)) if path != folder else path.resolve().name) for path in found]


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run directories at or below `folder`. Hidden folders and links to folders below it are not searched."""
    for place, folders, files in os.walk(folder):
        if is_run(folders, files):
            folders.clear()
            yield Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]


def is_run(folders: list[str], files: list[str]) -> bool:
    """Whether a folder with these names in it is a run. A folder that holds a recipe.toml alone is one that has just begun."""
    return CHECKPOINTS in folders or not {RECIPE, METRICS, STARTED}.isdisjoint(files)


def open_run(path: Path) -> RunSummary:
    """Summarize the run that `path` names: its directory, its recipe.toml or its checkpoints/. Raises UserError if it is none."""
    run = path.parent if path.name in (RECIPE, CHECKPOINTS) and not (path / CHECKPOINTS).is_dir() else path
    if not run.exists():
        near = [name for name in _names(run.parent) if not name.startswith(".")]
        raise UserError(f"{path}: no such run{nearest(run.name, near)}. List the runs: flowkit runs")
    if not run.is_dir() or not is_run(*_listed(run)):
        raise UserError(f"{path}: is not a run (no {RECIPE} and no {CHECKPOINTS}/). List the runs: flowkit runs")
    return summarize(run, run.resolve().name)


def named_apart(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the runs, with paths for names where several have the same name."""
    names = Counter(run.name for run in runs)
    return [run if names[run.name] == 1 else replace(run, name=str(run.path)) for run in runs]


def summarize(run: Path, name: str) -> RunSummary:
    """Summarize one run directory. Damaged files end in its state or remarks."""
    remarks: list[str] = []
    broken = ""
    try:
        recipe = read_recipe(run)
    except UserError as error:
        recipe, broken = {}, str(error)
    metrics = metrics_report(run / METRICS) or {}
    if unreadable := metrics.get("unreadable_lines"):
        remarks.append(f"{unreadable:,} line{'s' * (unreadable != 1)} of {METRICS} cannot be read")
    saved, sidecar = list_checkpoints(run), {}
    if saved:
        try:
            files = find_checkpoint(run)
            sidecar = read_model_json(files.sidecar)
            remarks += [files.notice] if files.notice else []
            recipe = recipe or sidecar.get("recipe") or {}
        except UserError as error:
            broken = broken or str(error)
    ended = _ended(run / END, remarks)
    evaluations = read_evaluations(run, remarks)
    last, validation = metrics.get("last") or {}, metrics.get("last_validation")
    steps = [row.get("step") for row in (last, validation or {})] + [checkpoint_step(saved[-1]) if saved else None]
    step = max((int(one) for one in steps if isinstance(one, int | float)), default=None)
    total = _total_steps(recipe, sidecar, last)
    if broken:
        state, reason = BROKEN, broken
    elif locked(run):
        state, reason = RUNNING, ""
    elif (ended or {}).get("reason") == "done" or (step and total and step >= total):
        state, reason = DONE, ""
    else:
        # A run that is killed writes no end.json.
        reason = str((ended or {}).get("reason") or ("killed" if step else "not begun"))
        state = INTERRUPTED
    return RunSummary(
        path=run, name=name, state=state, reason=reason,
        arch=_text(sidecar.get("architecture")) or _text(_table(recipe, "model").get("arch")),
        data=_text(_table(sidecar, "data").get("source")) or _text(_table(recipe, "data").get("source")),
        step=step, total_steps=total, loss=_number(last.get("loss")), validation=validation,
        best_validation=metrics.get("best_validation"),
        seconds=max((found for row in (last, validation or {}) if (found := _number(row.get("elapsed"))) is not None),
                    default=None),
        recipe=recipe, sidecar=sidecar, evaluations=tuple(evaluations), remarks=tuple(remarks),
    )  # fmt: skip


def read_recipe(run: Path) -> dict[str, Any]:
    """Return the tables of a run's recipe, with renamed keys translated; empty without a recipe. Raises UserError."""
    path = run / RECIPE
    if not path.exists():
        return {}
    try:
        return translated(tomllib.loads(read_bounded(path, MAX_RECIPE).decode("utf-8-sig")))[0]
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is not valid TOML ({error})") from None


def locked(run: Path) -> bool:
    """Whether a process holds the lock on this run. False where a file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        handle = os.open(run / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A shared lock is refused while a trainer holds its exclusive one. A trainer that starts at this moment waits.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _ended(path: Path, remarks: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return read_json(path)
    except UserError as error:
        remarks.append(str(error))
        return None


def _total_steps(recipe: dict[str, Any], sidecar: dict[str, Any], logged: dict[str, Any]) -> int | None:
    """Return the length of the run in updates. In epochs, it follows from the training rows, or from the last log step."""
    train = _table(recipe, "train")
    if isinstance(steps := train.get("steps"), int):
        return steps
    epochs, batch = _number(train.get("epochs")), _number(train.get("batch_size"))
    rows, step, epoch = _number(_table(sidecar, "data").get("train_rows")), logged.get("step"), logged.get("epoch")
    if not epochs or not batch:
        return None
    if rows:
        return max(1, math.ceil(round(epochs * rows / batch, 6)))
    if isinstance(step, int) and isinstance(epoch, float) and epoch > 0:
        return max(1, math.ceil(round(epochs * step / epoch, 6)))
    return None


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    names = _names(folder)
    return [name for name in names if (folder / name).is_dir()], names
