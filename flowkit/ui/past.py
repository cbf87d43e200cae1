"""The events of a resumed run before its resume, read back from the files in its directory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowkit.checkpoint import MAX_LINE, METRICS, checkpoint_step, list_checkpoints
from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError
from flowkit.events import Event, Logged, Sampled, Saved, Validated

LOGGED = {one.name for one in fields(Logged)} - {"seconds_left", "terms"}
CLOCKS = ("time", "elapsed")


def recall(run_dir: Path, step: int, tell: Callable[[Event], None]) -> float:
    """Tell the events up to `step`, and return the seconds that the run had taken by then.

    Unreadable lines and files are skipped: they must not stop a resume.
    """
    seconds, figures = 0.0, dict[str, float]()
    try:
        with (run_dir / METRICS).open("rb") as file:
            while line := file.readline(MAX_LINE):
                try:
                    row = parse_json(line)
                    if row["step"] > step:
                        continue
                    seconds = float(row.get("elapsed", seconds))
                    if "loss" in row:
                        tell(_logged(row))
                    elif "val_loss" in row:
                        tell(_validated(row))
                    else:
                        figures = {name: _number(x) for name, x in row.items() if name not in ("step", "nfe", *CLOCKS)}
                except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                    continue
        for event in (*_samples(run_dir, step, figures), *_checkpoints(run_dir, step)):
            tell(event)
    except OSError:
        pass
    return seconds


def _number(x: Any) -> float:
    """Convert a number; null, which metrics.jsonl has for numbers that are not finite, becomes NaN."""
    return math.nan if x is None else float(x)


def _logged(row: dict[str, Any]) -> Logged:
    whole: dict[str, Callable[[Any], Any]] = {"step": int, "skipped": int, "memory_bytes": int}
    known = {name: whole.get(name, _number)(row[name]) for name in LOGGED if name in row}
    terms = {name: _number(x) for name, x in row.items() if name not in LOGGED and name not in CLOCKS}
    return Logged(**known, seconds_left=math.nan, terms=terms)


def _validated(row: dict[str, Any]) -> Validated:
    gaussian = {
        found[1]: _number(x) for name, x in row.items() if (found := re.fullmatch("val_(.+)_gaussian_loss", name))
    }
    bins = tuple((float(low), float(high), _number(loss)) for low, high, loss in row["val_bins"])
    one_step = row.get("val_one_step_error")
    return Validated(
        int(row["step"]), _number(row["val_loss"]), _number(row["val_raw_loss"]), _number(row["val_zero_loss"]), bins,
        bool(row["best"]), gaussian, one_step_error=None if one_step is None else float(one_step),
    )  # fmt: skip


def _samples(run_dir: Path, step: int, figures: dict[str, float]) -> list[Sampled]:
    """Return the latest samples up to `step`. Their duration is NaN, because it is not stored."""
    from flowkit.data.dataset import read_sidecar
    from flowkit.inspect.dataset import pictures

    for folder in sorted((run_dir / "samples").glob("step-*"), reverse=True):
        file = folder / "samples.safetensors"
        if not folder.name[5:].isdigit() or int(folder.name[5:]) > step or not file.is_file():
            continue
        try:
            nfe, previews = read_sidecar(file)["nfe"], tuple(pictures(file))
        except (UserError, ValueError, TypeError, KeyError):
            return []
        return [Sampled(int(folder.name[5:]), previews, folder, nfe, math.nan, figures=figures, count=len(previews))]
    return []


def _checkpoints(run_dir: Path, step: int) -> list[Saved]:
    there = [(number, path) for path in list_checkpoints(run_dir) if (number := checkpoint_step(path)) <= step]
    return [Saved(*there[-1], best=False, seconds=math.nan)] if there else []
