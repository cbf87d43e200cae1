"""Listeners that keep what the loop says: `metrics.jsonl` always, Weights & Biases where the recipe asks for it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flowkit.checkpoint import MAX_LINE
from flowkit.data.files import read_bounded, replacing
from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError
from flowkit.events import Event, Logged, RunStarted, Sampled, Validated

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


def metrics_of(event: Event) -> dict[str, Any] | None:
    """The numbers of a log step, a validation or samples by their names in `metrics.jsonl`; None for other events."""
    if isinstance(event, Logged):
        return {
            "step": event.step, "epoch": event.epoch, "loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm,
            "ema_decay": event.ema_decay, "rows_per_second": event.rows_per_second, "memory_bytes": event.memory_bytes,
            "skipped": event.skipped, **event.terms,
        }  # fmt: skip
    if isinstance(event, Validated):
        gaussian = {f"val_{kind}_gaussian_loss": loss for kind, loss in event.gaussian_losses.items()}
        others = {f"val_ema_{label}_loss": loss for label, loss in event.ema_losses.items()}
        one_step = {} if event.one_step_error is None else {"val_one_step_error": event.one_step_error}
        return {
            "step": event.step, "val_loss": event.loss, "val_raw_loss": event.raw_loss, "val_zero_loss": event.zero_loss,
            **gaussian, **others, **one_step, "val_bins": [list(bin_) for bin_ in event.bins], "best": event.best,
        }  # fmt: skip
    if isinstance(event, Sampled) and event.figures:
        return {"step": event.step, "nfe": event.nfe, **event.figures}
    return None


class MetricsFile:
    """Appends one JSON object a log step, validation or drawing of samples; continuing from step s drops what came after.

    Lines that a full disk or a folder that is gone does not take are kept, and written when it does again.
    """

    def __init__(self, path: Path, start_step: int):
        self.path = path
        self.trouble: OSError | None = None  # why the last lines are not in the file
        self._waiting: list[str] = []
        if path.exists():
            if not path.is_file():
                raise UserError(f"{path}: is no regular file; move it away, and this run's lines go on in a new one")
            with path.open("rb") as file, replacing(path) as partial, partial.open("wb") as kept:
                while line := file.readline(MAX_LINE):
                    if _step(line) <= start_step:
                        kept.write(line.rstrip(b"\r\n") + b"\n")
        self._write()
        if self.trouble is not None:
            raise UserError(f"{path}: cannot be written ({self.trouble.strerror})")

    def __call__(self, event: Event) -> None:
        metrics = metrics_of(event)
        if metrics is not None:
            # JSON has no NaN: null says "not a number" to every reader.
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
            self._waiting.append(json.dumps(clean) + "\n")
            self._write()

    def _write(self) -> None:
        """Opened anew every time: a file that was removed would take lines that nobody can read."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._waiting)
        except OSError as error:
            self.trouble = error
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # part of a line may have found room
        else:
            self.trouble, self._waiting = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting:
            self._write()
        if self.trouble is not None and error is None:
            raise UserError(
                f"{self.path}: the last {len(self._waiting)} lines could not be written ({self.trouble.strerror}); the "
                "checkpoints are whole. Free some space or mend the folder"
            )


def _step(line: bytes) -> float:
    """The step of a metrics line; infinity for a line that a killed process left unfinished."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def require_wandb() -> None:
    """Raise UserError where the package is missing; asked before anything of an earlier run is given up."""
    try:
        from wandb import init  # noqa: F401  a mere folder called wandb, as its runs leave behind, can be imported too
    except ImportError:
        raise UserError(
            "track.wandb: is true, and the package wandb is not installed; `pip install wandb`, or set track.wandb=false"
        ) from None


def _kept_id(path: Path) -> str:
    """The id of the run at Weights & Biases that a resumed run continues; its own folder there is named after it."""
    found = read_bounded(path, 1000).strip()
    if not re.fullmatch(rb"[A-Za-z0-9_-]{1,128}", found):
        raise UserError(f"{path}: holds no id of a Weights & Biases run; remove it to go on as a new one there")
    return found.decode()


class WandbTracker:
    """One Weights & Biases run a flowkit run: its id is kept in the run directory, so that a resume continues it."""

    def __init__(self, recipe: Recipe, run_dir: Path, start_step: int):
        import wandb

        id_file = run_dir / "wandb_id"
        run_id = _kept_id(id_file) if start_step and id_file.exists() else secrets.token_hex(4)
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=recipe.track.project, name=recipe.run.name, group=recipe.track.group, tags=list(recipe.track.tags),
                dir=str(run_dir), id=run_id, resume="allow", config=recipe.to_dict(),
                settings=wandb.Settings(console="off"),  # its capture of the console would fight with the live view
            )  # fmt: skip
        except wandb.Error as error:
            raise UserError(
                f"track.wandb: Weights & Biases cannot start ({error}); `wandb login`, or set WANDB_MODE=offline or "
                "track.wandb=false"
            ) from None
        id_file.write_text(run_id + "\n", "utf-8")
        self._images = recipe.track.images

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._run.summary["num_parameters"] = event.num_parameters
        metrics = metrics_of(event)
        if metrics is not None:
            bins = {f"val_bin_{low:.1f}": loss for low, _, loss in metrics.pop("val_bins", [])}
            self._run.log({**metrics, **bins}, step=metrics["step"])
        if isinstance(event, Sampled) and event.image is not None and self._images:
            self._run.log({"samples": self._wandb.Image(str(event.image))}, step=event.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also after a crash: a run that is not finished keeps its process hanging.
        self._run.finish(exit_code=int(error is not None))
