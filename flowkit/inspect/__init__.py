"""Find out what a path is, and report on it: plain dicts that `--json` prints and `flowkit.ui.inspect_view.show` draws.

Torch-free: only headers, JSON and a few rows are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowkit.checkpoint import (
    BEST,
    CHECKPOINTS,
    LATEST,
    METRICS,
    MODEL,
    OPTIMIZER,
    RECIPE,
    SIDECAR,
    STATE,
    find_checkpoint,
)
from flowkit.data.files import read_json
from flowkit.data.header import read_header
from flowkit.errors import UserError, listing, nearest
from flowkit.hub import is_hub
from flowkit.inspect.checkpoint import checkpoint_report, run_report
from flowkit.inspect.files import file_report
from flowkit.inspect.metrics import metrics_report
from flowkit.inspect.weights import weights_report
from flowkit.packaged import packaged_recipes

SAMPLES = "samples.safetensors"


def inspect(path: Path | str) -> dict[str, Any]:
    """Return a JSON-able report. Its `"what"` is "run", "checkpoint", "data", "recipe", "metrics", "tensors" or "file".

    path: a run directory, a checkpoint directory, a model of the Hub (hf://user/name), a .safetensors file (weights, optimizer,
    prepared data, samples), the .json or .jsonl next to one, a folder of samples, a recipe or the name of a packaged one, a
    metrics.jsonl, or another file that flowkit writes. Raises UserError for anything else, and for a corrupt file.
    """
    if is_hub(path):
        return checkpoint_report(Path(path))
    path = Path(path)
    if path.name in (LATEST, BEST) and path.parent.name == CHECKPOINTS:  # may also be a text file, or a dangling link
        return checkpoint_report(path)
    if path.parent.name in (LATEST, BEST) and path.parent.parent.name == CHECKPOINTS and not path.exists():
        path = find_checkpoint(path.parent).directory / path.name
    if not path.exists():
        path = packaged_recipes().get(str(path), path)
    if path.is_dir():
        return _directory(path)
    if path.suffix == ".toml":
        from flowkit.inspect.recipe import recipe_report

        return recipe_report(path)
    if path.suffix not in (".safetensors", ".json", ".jsonl") and (whole := Path(f"{path}.safetensors")).is_file():
        path = whole
    if not path.exists():
        raise UserError(f"{path}: no such file or folder{_neighbors(path)}")
    if path.name == METRICS:
        return {"what": "metrics", "path": str(path), "metrics": metrics_report(path)}
    if path.suffix in (".json", ".jsonl"):
        if path.name in (SIDECAR, STATE) and path.with_name(MODEL).is_file():
            path = path.with_name(MODEL)
        elif path.with_suffix(".safetensors").is_file():
            path = path.with_suffix(".safetensors")
    return _tensors(path) if path.suffix == ".safetensors" else file_report(path)


def _directory(path: Path) -> dict[str, Any]:
    if path.name == CHECKPOINTS and not (path / MODEL).exists():
        path = path.parent
    if (path / CHECKPOINTS).is_dir() or (path / RECIPE).is_file():
        return run_report(path)
    if any((path / name).is_file() for name in (MODEL, SIDECAR)):
        return checkpoint_report(path)
    if (path / SAMPLES).is_file():
        return _data(path / SAMPLES)
    try:
        inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    known = [child.name for child in inside
             if (child.is_dir() and ((child / RECIPE).is_file() or (child / MODEL).is_file() or (child / SAMPLES).is_file()))
             or child.suffix in (".safetensors", ".toml")]  # fmt: skip
    raise UserError(
        f"{path}: not a run (no {RECIPE}), not a checkpoint (no {MODEL}), not samples (no {SAMPLES})"
        + (f". It contains: {listing(known)}" if known else "")
    )


def _tensors(path: Path) -> dict[str, Any]:
    """Report on a .safetensors file. Its tensors and the JSON next to it tell what it is."""
    header = read_header(path)
    if path.name == OPTIMIZER or (header and all(name.startswith(("exp_avg", "step")) for name in header)):
        state = path.with_name(STATE)
        return {
            "what": "tensors", "holds": "optimizer state", "path": str(path), "weights": weights_report(path, header),
            "state": read_json(state) if state.is_file() else None,
        }  # fmt: skip
    own, shared = path.with_suffix(".json"), path.with_name(SIDECAR)
    sidecar = own if own.is_file() else shared
    if "x" in header and own.is_file() and "model_args" not in read_json(own):
        return _data(path)
    if sidecar.is_file():
        return checkpoint_report(path)
    return {"what": "tensors", "holds": "tensors", "path": str(path), "weights": weights_report(path, header),
            "remarks": [f"contents unknown: there is no {own.name} next to it"]}  # fmt: skip


def _data(path: Path) -> dict[str, Any]:
    from flowkit.inspect.dataset import data_report  # needs numpy

    return data_report(path)


def _neighbors(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist either)"
    try:
        return nearest(path.name, [child.name for child in path.parent.iterdir() if not child.name.startswith(".")])
    except OSError:
        return ""
