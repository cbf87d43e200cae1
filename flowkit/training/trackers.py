"""Listeners that record a run: `metrics.jsonl` always, and the accelerate trackers that the recipe names."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from flowkit.checkpoint import MAX_LINE
from flowkit.components import find, names
from flowkit.data.files import read_bounded, replacing
from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError, listing, nearest
from flowkit.events import Event, Logged, RunStarted, Sampled, Validated
from flowkit.recipe.dump import dump_toml
from flowkit.training.provenance import now

if TYPE_CHECKING:
    from flowkit.recipe import Recipe


def metrics_of(event: Event) -> dict[str, Any] | None:
    """Return the numbers of a log step, validation or samples by their names in `metrics.jsonl`; None for other events."""
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
    """Appends one JSON object per log step, validation or sampling. Resuming from step s drops the lines after s.

    Each line ends with `time` (local, ISO 8601) and `elapsed` (seconds of training in all sessions of the run).
    Lines that cannot be written (full disk, missing folder) are kept and written later.
    """

    def __init__(self, path: Path, start_step: int):
        self.path = path
        self._error: OSError | None = None  # why the last lines are not in the file
        self._waiting: list[str] = []
        earlier = 0.0  # seconds of the sessions before this one
        if path.exists():
            if not path.is_file():
                raise UserError(f"{path}: is not a regular file; move it away to let this run continue in a new file")
            with path.open("rb") as file, replacing(path) as partial, partial.open("wb") as kept:
                while line := file.readline(MAX_LINE):
                    if _step(line) <= start_step:
                        kept.write(line.rstrip(b"\r\n") + b"\n")
                        earlier = _elapsed(line, earlier)
        self._began = time.monotonic() - earlier
        self._write()
        if self._error is not None:
            raise UserError(f"{path}: cannot be written ({self._error.strerror})")

    @property
    def trouble(self) -> str | None:
        """Return why its last lines are not written yet; None if they are."""
        if self._error is None:
            return None
        return f"{self.path}: cannot be written ({self._error.strerror}); its lines are kept and written later"

    def __call__(self, event: Event) -> None:
        metrics = metrics_of(event)
        if metrics is not None:
            # JSON has no NaN, so write null.
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
            clocks = {"time": now(), "elapsed": round(time.monotonic() - self._began, 3)}
            self._waiting.append(json.dumps({**clean, **clocks}) + "\n")
            self._write()

    def _write(self) -> None:
        """Open the file anew each time, so that lines are not lost in a file that was deleted."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self._waiting)
        except OSError as error:
            self._error = error
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # remove a line that was written in part
        else:
            self._error, self._waiting = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting:
            self._write()
        if self._error is not None and error is None:
            raise UserError(
                f"{self.path}: the last {len(self._waiting)} lines could not be written ({self._error.strerror}). The "
                "checkpoints are not affected. Free some space or fix the folder"
            )


def _step(line: bytes) -> float:
    """Return the step of a metrics line; infinity for an incomplete line."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _elapsed(line: bytes, otherwise: float) -> float:
    """Return the seconds in a metrics line; `otherwise` for a line of an older version."""
    found = parse_json(line).get("elapsed")
    return float(found) if isinstance(found, int | float) else otherwise


def check_trackers(recipe: Recipe) -> None:
    """Raise UserError for a tracker that is unknown or not installed. Called before anything of an earlier run is replaced."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    for name in recipe.track.names:
        if name in names("tracker"):  # a user's own, imported when the recipe was read
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(
                f"track.to: {name!r} is unknown; expected {listing(sorted(LOGGER_TYPE_TO_CLASS))}"
                f"{nearest(name, LOGGER_TYPE_TO_CLASS)}"
            )
        # accelerate checks for more than a folder of that name, such as the wandb/ that runs leave behind.
        if name not in map(str, get_available_trackers()):
            raise UserError(
                f"track.to: {name} is not installed; run `pip install {name.replace('_', '-')}`, or remove it"
            )


class Tracker:
    """One of accelerate's trackers as a listener: numbers in groups (train/, val/, samples/), and sample sheets.

    The id of its run is kept in the run directory as `<name>_id`, so that a resumed run continues it.
    """

    def __init__(self, name: str, recipe: Recipe, run_dir: Path, start_step: int):
        """Raises UserError if it cannot start: not logged in, no connection, a folder that cannot be written."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self.name, self._images = name, recipe.track.images
        self.trouble: str | None = None  # why the last numbers could not be sent
        kept = run_dir / f"{name}_id"
        run_id = _kept_id(kept) if start_step and kept.exists() else None
        tracker_class: Any = LOGGER_TYPE_TO_CLASS[name] if name in LOGGER_TYPE_TO_CLASS else find("tracker", name)
        self._tracker = tracker_class(**_arguments(name, recipe, run_dir, start_step, run_id))
        self._recipe = recipe
        try:
            self._tracker.start()
        except Exception as error:  # each service has its own kinds
            remedy = "; run `wandb login`, or set WANDB_MODE=offline" if name == "wandb" else ""
            raise UserError(f"track.to: {name} cannot start ({error}){remedy}, or remove it from track.to") from None
        if name in IDS:
            kept.write_text(IDS[name](self._tracker.tracker) + "\n", "utf-8")

    def __call__(self, event: Event) -> None:
        """Send numbers and pictures. Errors are kept in `trouble`: an unreachable service must not end a run."""
        if not isinstance(event, RunStarted | Logged | Validated | Sampled):
            return
        try:
            if isinstance(event, RunStarted):
                self._describe(event)
            elif metrics := metrics_of(event):
                self._tracker.log(_grouped(event, metrics), step=event.step)
            if isinstance(event, Sampled) and event.image is not None and self._images:
                self._log_image(event.image, event.step)
            self.trouble = None
        except Exception as error:  # each service has its own kinds
            self.trouble = (
                f"{self.name}: cannot be reached ({error}); training continues, and metrics.jsonl has everything"
            )

    def _describe(self, event: RunStarted) -> None:
        if self.name == "tensorboard":  # its table of hyperparameters would show up as a second run
            recipe = f"{event.num_parameters:,} parameters\n\n```toml\n{dump_toml(self._recipe)}```"
            self._tracker.log({"recipe": recipe}, step=event.start_step)
        else:
            self._tracker.store_init_configuration(
                {**_flat(self._recipe.to_dict()), "num_parameters": event.num_parameters}
            )

    def _log_image(self, path: Path, step: int) -> None:
        if not hasattr(self._tracker, "log_images"):
            return
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        if self.name == "tensorboard":
            self._tracker.log_images({"samples/sheet": pixels[None]}, step=step, dataformats="NHWC")
        else:
            self._tracker.log_images({"samples/sheet": pixels if self.name == "aim" else [pixels]}, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also after a crash: an unfinished run would keep the process hanging.
        if self.name == "wandb":
            self._tracker.tracker.finish(exit_code=int(error is not None))
        else:
            self._tracker.finish()


# How to get the id of a service's run, to resume it. Other services resume by name or folder.
IDS: dict[str, Callable[[Any], str]] = {
    "wandb": lambda run: run.id,
    "swanlab": lambda run: run.id,
    "mlflow": lambda run: run.info.run_id,
    "comet_ml": lambda experiment: experiment.get_key(),
    "aim": lambda run: run.hash,
}


def _arguments(name: str, recipe: Recipe, run_dir: Path, start_step: int, run_id: str | None) -> dict[str, Any]:
    """Return the arguments of accelerate's tracker. run_id: id of the run to resume; None for a new one."""
    track, run = recipe.track, recipe.run.name
    match name:
        case "tensorboard":  # purge_step hides what was logged after the step that a run resumes from
            return {
                "run_name": "tensorboard",
                "logging_dir": run_dir,
                "purge_step": start_step + 1 if start_step else None,
            }
        case "wandb":
            import wandb

            quiet = wandb.Settings(console="off")  # its console capture would break the live view
            return {"run_name": track.project, "name": run, "group": track.group, "tags": list(track.tags),
                    "dir": str(run_dir), "id": run_id, "resume": "allow", "settings": quiet}  # fmt: skip
        case "trackio":
            return {"run_name": track.project, "name": run, "group": track.group, "resume": "allow"}
        case "swanlab":
            return {"run_name": track.project, "experiment_name": run, "group": track.group, "tags": list(track.tags),
                    "logdir": str(run_dir / "swanlab"), "id": run_id, "resume": "allow"}  # fmt: skip
        case "mlflow":
            tags = dict.fromkeys(track.tags, "true")
            return {"experiment_name": track.project, "run_name": run, "tags": tags, "run_id": run_id}
        case "comet_ml":
            return {"run_name": track.project, "experiment_key": run_id}
        case "aim":
            return {"run_name": run, "logging_dir": str(run_dir), "experiment": track.project, "run_hash": run_id}
        case _:
            return {"run_name": run}


def _grouped(event: Event, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers under the names that dashboards group by: `train/loss`, `val/loss`, `samples/nfe`."""
    group = "train" if isinstance(event, Logged) else "val" if isinstance(event, Validated) else "samples"
    bins = {f"bin_{low:.1f}": loss for low, _, loss in metrics.pop("val_bins", [])}
    numbers = {name.removeprefix("val_"): value for name, value in metrics.items() if name != "step"}
    return {f"{group}/{name}": float(value) for name, value in {**numbers, **bins}.items() if value is not None}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables: `{"optim.lr": 1e-4, ...}`."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def _kept_id(path: Path) -> str:
    """Read the id of a service's run. Raises UserError if it cannot be one."""
    found = read_bounded(path, 1000).strip()
    if not re.fullmatch(rb"[A-Za-z0-9_-]{1,128}", found):
        raise UserError(f"{path}: not the id of a run; remove the file to start a new run there")
    return found.decode()
