"""Reports on runs and checkpoints. Reads JSON and headers, but no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowkit.checkpoint import (
    BEST,
    CHECKPOINTS,
    END,
    LATEST,
    METRICS,
    MODEL,
    SIDECAR,
    STATE,
    checkpoint_step,
    find_checkpoint,
    list_checkpoints,
    list_snapshots,
    read_model_json,
)
from flowkit.data.files import read_json
from flowkit.data.header import read_header
from flowkit.errors import UserError
from flowkit.inspect.metrics import metrics_report
from flowkit.inspect.weights import weights_report
from flowkit.renamed import translated


def run_report(path: Path) -> dict[str, Any]:
    """Report on a run: its latest checkpoint, all its checkpoints, and its losses. The run may have no checkpoint yet."""
    saved = list_checkpoints(path)
    latest, best = (_found(path / CHECKPOINTS / name) for name in (LATEST, BEST))
    run = {
        "path": str(path),
        "name": path.resolve().name,
        "checkpoints": [
            {
                "name": one.name,
                "step": checkpoint_step(one),
                "bytes": sum(file.stat().st_size for file in one.iterdir() if file.is_file()),
                "latest": one.name == latest,
                "best": one.name == best,
                "validation_loss": _validation_loss(one),
            }
            for one in saved
        ],
        "latest": latest,
        "best": best,
        "snapshots": [one.name for one in list_snapshots(path)],
        "ended": _ended(path / END),
        "metrics": metrics_report(path / METRICS),
        "samples": sorted(one.name for one in (path / "samples").glob("step-*") if one.is_dir()),
    }
    if not saved:
        return {"what": "run", "path": str(path), "run": run, "model": None, "recipe": _recipe(path),
                "remarks": ["no checkpoint has been saved yet"]}  # fmt: skip
    return {**checkpoint_report(path), "what": "run", "path": str(path), "run": run}


def checkpoint_report(path: Path) -> dict[str, Any]:
    """Report on a checkpoint, or on a weight file with its sidecar. Raises UserError if a file is missing or truncated."""
    files = find_checkpoint(path)
    sidecar = read_model_json(files.sidecar)
    averages = [one for one in (files.ema, *files.averages().values()) if one is not None]
    headers = {one: read_header(one) for one in (files.model, *averages)}
    weights = weights_report(files.model, headers[files.model])
    remarks = [files.notice] if files.notice else []
    for one in headers:
        if _shapes(headers[one]) != _shapes(headers[files.model]):
            remarks.append(f"{one.name} and {MODEL} hold different tensors")
    counted = sidecar.get("num_parameters")
    if isinstance(counted, int) and counted > weights["elements"]:
        remarks.append(f"{files.sidecar.name} says {counted:,} parameters, the file holds {weights['elements']:,}")
    whole = path.suffix != ".safetensors"
    state = files.directory / STATE
    names = sorted(files.directory.iterdir()) if whole else [files.model, files.sidecar]
    return {
        "what": "checkpoint",
        "path": str(path),
        "checkpoint": str(files.directory if whole else files.model),
        "files": {one.name: one.stat().st_size for one in names if one.is_file() and not one.name.startswith(".")},
        "model": {key: content for key, content in sidecar.items() if key != "recipe"},
        "recipe": sidecar.get("recipe"),
        "weights": weights,
        "state": read_json(state) if whole and state.is_file() else None,
        "remarks": remarks,
    }


def _ended(path: Path) -> dict[str, Any] | None:
    """Return the last step and why the run ended. None if it still trains, was killed, or is from before this file existed."""
    if not path.is_file():
        return None
    content = read_json(path)
    step, reason = content.get("step"), content.get("reason")
    if not isinstance(step, int) or not isinstance(reason, str):
        raise UserError(f'{path}: expected "step" (a whole number) and "reason" (text). Remove the file')
    return {"step": step, "reason": reason}


def _shapes(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: entry.shape for name, entry in header.items()}


def _found(pointer: Path) -> str | None:
    """Return the name of the checkpoint that `latest` or `best` points to; None if there is none."""
    try:
        return find_checkpoint(pointer).directory.name
    except UserError:
        return None


def _validation_loss(directory: Path) -> float | None:
    try:
        found = (read_model_json(directory / SIDECAR).get("validation") or {}).get("loss")
    except UserError:
        return None
    return found if isinstance(found, int | float) else None


def _recipe(run_dir: Path) -> dict[str, Any] | None:
    import tomllib

    path = run_dir / "recipe.toml"
    try:
        return translated(tomllib.loads(path.read_text("utf-8")))[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
