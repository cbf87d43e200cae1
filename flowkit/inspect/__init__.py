"""Which kind of thing a path names, and the report of it: plain dicts that `--json` prints and `show` draws.

Torch-free: headers, JSON and a few rows are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowkit.checkpoint import BEST, CHECKPOINTS, LATEST, MODEL, OPTIMIZER, RECIPE, SIDECAR, STATE, find_checkpoint
from flowkit.data.files import read_json
from flowkit.data.header import read_header
from flowkit.errors import UserError, listing, nearest
from flowkit.inspect.checkpoint import checkpoint_report, run_report
from flowkit.inspect.weights import weights_report

SAMPLES = "samples.safetensors"


def inspect(path: Path | str) -> dict[str, Any]:
    """A JSON-able report; its `"what"` is "run", "checkpoint", "data", "recipe" or "tensors".

    path: a run directory, a checkpoint directory, a .safetensors file (weights, optimizer, prepared data, samples), the
    .json beside one, a folder of samples, or a recipe. Raises UserError for anything else, and for a file that is broken.
    """
    path = Path(path)
    if path.name in (LATEST, BEST) and path.parent.name == CHECKPOINTS:  # also a text file, or a link to nowhere
        return checkpoint_report(path)
    if path.parent.name in (LATEST, BEST) and path.parent.parent.name == CHECKPOINTS and not path.exists():
        path = find_checkpoint(path.parent).directory / path.name
    if path.is_dir():
        return _directory(path)
    if path.suffix == ".toml":
        from flowkit.inspect.recipe import recipe_report

        return recipe_report(path)
    if path.suffix == ".json":
        path = _beside(path)
    elif path.suffix != ".safetensors" and path.with_name(path.name + ".safetensors").is_file():
        path = path.with_name(path.name + ".safetensors")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder{_neighbours(path)}")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: neither a folder, nor a .safetensors, .json or .toml file; flowkit writes no other")
    return _tensors(path)


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
        f"{path}: is neither a run (no {RECIPE}), nor a checkpoint (no {MODEL}), nor samples (no {SAMPLES})"
        + (f"; in it there are: {listing(known)}" if known else "")
    )


def _tensors(path: Path) -> dict[str, Any]:
    """A .safetensors file is known by what it holds and by the JSON beside it."""
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
            "remarks": [f"there is no {own.name} beside it to say what it is"]}  # fmt: skip


def _data(path: Path) -> dict[str, Any]:
    from flowkit.inspect.dataset import data_report  # needs numpy

    return data_report(path)


def _beside(path: Path) -> Path:
    """The tensors that a JSON describes; its folder for a checkpoint's own."""
    if not path.is_file():
        raise UserError(f"{path}: no such file{_neighbours(path)}")
    if path.name in (SIDECAR, STATE) and path.with_name(MODEL).is_file():
        return path.with_name(MODEL)
    tensors = path.with_suffix(".safetensors")
    if not tensors.is_file():
        raise UserError(f"{path}: has no {tensors.name} beside it; name a run, a checkpoint, data or a recipe")
    return tensors


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    try:
        return nearest(path.name, [child.name for child in path.parent.iterdir() if not child.name.startswith(".")])
    except OSError:
        return ""
