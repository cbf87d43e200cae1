"""Find a checkpoint's files and read its sidecar. Torch-free: headers and JSON only.

`--ckpt` takes a run (its newest intact checkpoint), a checkpoint directory, a .safetensors file with its .json next to it, or
a model of the Hugging Face Hub (hf://user/name). `latest` and `best` are hints for people. They may be links, copies, text
files or missing: no checkpoint is found by them alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.checkpoint.sidecar import check_fields
from flowkit.data.checksums import verify
from flowkit.data.files import read_json
from flowkit.data.header import read_header
from flowkit.errors import UserError, listing, nearest
from flowkit.hub import download, is_hub
from flowkit.renamed import translated_sidecar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.data.normalizers import Normalizer

CHECKPOINTS, LATEST, BEST = "checkpoints", "latest", "best"
MODEL, EMA, SIDECAR = "model.safetensors", "ema.safetensors", "model.json"
SNAPSHOTS, SNAPSHOT = "ema", "snapshot.json"  # of power-function averages
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
EMA_OF = "ema-{}.safetensors"  # by label, for all averages but the first
END = "end.json"  # the last step and why the run ended; a killed run has none
RECIPE = "recipe.toml"  # the folder that holds this and the checkpoints is the run
STARTED = "run.json"  # the folder the run was started in; paths in its recipe are relative to it
METRICS = "metrics.jsonl"  # one object per line
MAX_LINE = 1_000_000  # bytes; flowkit writes no longer line
NORMALIZER = "normalizer.safetensors"  # for normalizers with large tensors


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint. `model` and `ema` hold the same tensors; `ema` is None without an EMA, or for a single file."""

    directory: Path
    model: Path
    ema: Path | None
    sidecar: Path
    run_dir: Path | None
    notice: str = ""  # which corrupt checkpoint was skipped, and why
    hub: str = ""  # name of the model on the Hub, if it came from there: the folder is then in a cache

    @property
    def home(self) -> Path:
        """The folder to write to by default: the run, or the checkpoint's folder; for a model of the Hub one with its name."""
        return Path(self.hub) if self.hub else self.run_dir or self.directory

    def weights(self, which: str) -> Path:
        """Return the file of the "ema" or "raw" weights, or of one of several averages: "ema:0.999", "ema:power-0.05".

        Without an EMA, "ema" is the raw weights. Raises UserError for an unknown average.
        """
        if which in ("ema", "raw"):
            return self.ema if which == "ema" and self.ema is not None else self.model
        averages, label = self.averages(), which.removeprefix("ema:")
        if not which.startswith("ema:"):
            others = f", or 'ema:' and one of {listing(averages)}" if len(averages) > 1 else ""
            raise UserError(f"weights: {which!r} is not valid; expected 'ema' or 'raw'{others}")
        if label not in averages:
            raise UserError(
                f"weights: {self.directory} has no average {label!r}; it has {listing(averages) or 'none'}"
                f"{nearest(label, averages)}"
            )
        return averages[label]

    def averages(self) -> dict[str, Path]:
        """Return the files of the moving averages by label. Samples come from the first."""
        ema = read_json(self.sidecar).get("ema") if self.ema is not None else None
        files = {label: self.directory / name for label, name in average_files(ema).items()}
        return {label: path for label, path in files.items() if path.is_file()}


def average_files(ema: object) -> dict[str, str]:
    """Return file names by label ("0.9999", "power-0.05") for the [ema] table of a sidecar or recipe, in order."""
    if not isinstance(ema, dict):
        return {}
    decay, power = ema.get("decay") or (), ema.get("power") or ()
    labels = [f"{one!r}" for one in (decay if isinstance(decay, list | tuple) else (decay,))]
    labels += [f"power-{one!r}" for one in (power if isinstance(power, list | tuple) else ())]
    return {label: EMA_OF.format(label) if number else EMA for number, label in enumerate(labels)}


def decay_in_effect(ema: Mapping[str, Any], decay: float, update: int) -> float:
    """Return the decay at `update` (from 1) of the average with that `decay`, given the [ema] table of a sidecar or recipe.

    The first update is taken as it is. The warm-up scales the decay instead of capping it, so that two decays differ in a
    run of any length: after n updates an average covers about 1 / (1 - decay + 1 / (share n)) of them.
    """
    before = update - 1
    if before < 1:
        return 0.0
    if not ema.get("warmup"):
        return decay
    if ema.get("warmup_power") is not None:
        return min(decay, 1 - update ** -ema["warmup_power"])
    return decay * before / (before + 1 / ema["warmup_share"])


def find_checkpoint(
    path: Path | str, *, check: Callable[[CheckpointFiles], object] = lambda files: None
) -> CheckpointFiles:
    """Return the files of the checkpoint that `path` names. Raises UserError that says what is there instead.

    For a run (or its `latest`) this is the newest intact checkpoint, for its `best` the best one. `check` raises UserError for
    files that cannot be used; `notice` then names the first checkpoint that was skipped. If none can be used, the newest is
    returned, and reading it raises the error. A checkpoint that is named directly is never replaced by another.
    "hf://user/name" is downloaded from the Hugging Face Hub.
    """
    if is_hub(path):
        folder, name = download(str(path))
        return replace(_whole(folder, None), hub=name)
    path = Path(path)
    if path.suffix == ".safetensors":
        pointer = _pointer(path.parent)
        if pointer is not None and not path.is_file():
            path = find_checkpoint(path.parent).directory / path.name
        return _single(path)
    pointer = _pointer(path)
    if pointer is not None:
        return _in_run(*pointer, check)
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint{_siblings(path)}")
    return _whole(path, _run_of(path))


def _run_of(folder: Path) -> Path | None:
    """Return the run that a checkpoint's folder, or a folder of `flowkit ema`, belongs to; None if there is none."""
    for one in (folder, folder.absolute()):  # keep a relative path if possible
        if one.parent.name == CHECKPOINTS:
            return one.parent.parent
        if one.name == SNAPSHOTS and (one.parent / CHECKPOINTS).is_dir():
            return one.parent
    return None


def _pointer(path: Path) -> tuple[Path, str] | None:
    """Return (run, "latest" or "best") if `path` is a run, its checkpoints/, its recipe.toml, or one of those two."""
    if (path / CHECKPOINTS).is_dir():
        return path, LATEST
    if path.name == CHECKPOINTS and path.is_dir() and not (path / MODEL).exists():
        return path.parent, LATEST
    if path.name == RECIPE and (path.parent / CHECKPOINTS).is_dir():
        return path.parent, LATEST
    parent = path.absolute().parent
    if path.name in (LATEST, BEST) and parent.name == CHECKPOINTS:
        return (path.parent.parent if path.parent.name == CHECKPOINTS else parent.parent), path.name
    return None


def _single(path: Path) -> CheckpointFiles:
    if not path.is_file():
        raise UserError(f"{path}: no such file{_siblings(path)}")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        sidecar = path.with_name(SIDECAR)  # ema.safetensors shares model.json
    if not sidecar.is_file():
        raise UserError(f"{path}: its sidecar {path.with_suffix('.json').name} is missing")
    return CheckpointFiles(path.parent, path, None, sidecar, _run_of(path.parent))


def _whole(directory: Path, run_dir: Path | None) -> CheckpointFiles:
    """Return the files of a checkpoint's directory. Raises UserError if it has no weights."""
    if not (directory / MODEL).is_file():
        raise UserError(f"{directory}: has no {MODEL}; expected a run directory, a checkpoint or a .safetensors file")
    ema = directory / EMA
    return CheckpointFiles(directory, directory / MODEL, ema if ema.is_file() else None, directory / SIDECAR, run_dir)


def _in_run(run_dir: Path, pointer: str, check: Callable[[CheckpointFiles], object]) -> CheckpointFiles:
    candidates = _candidates(run_dir) if pointer == LATEST else _best_first(run_dir)
    if not candidates:
        raise UserError(f"{run_dir}: this run has no checkpoint yet; the first is saved after train.save_every")
    passed = ""
    for directory in candidates:
        try:
            files = _whole(directory, run_dir)
            normalizer = read_model_json(files.sidecar)["normalizer"].get("file")
            for path in (files.model, files.ema, None if normalizer is None else directory / normalizer):
                if path is not None:
                    read_header(path)
            check(files)
        except UserError as error:
            passed = passed or f"{directory} is not usable ({error})"
            continue
        return replace(files, notice=f"{passed}; using {directory}" if passed else "")
    return _whole(candidates[0], run_dir)


def _candidates(run_dir: Path) -> list[Path]:
    """Return the directories of all checkpoints, newest first. A copied pointer comes after the original."""
    parent = run_dir / CHECKPOINTS
    found = [(checkpoint_step(path), 1, path) for path in _steps(parent) if not path.is_symlink()]
    found += [(step, 0, path) for path, step in copied_pointers(parent).items()]
    return [path for _, _, path in sorted(found, reverse=True)]


def _best_first(run_dir: Path) -> list[Path]:
    """Return the checkpoints with a validation loss, best first: by the newest state.json, by `best`, by their losses.

    Raises UserError if nothing says which is best.
    """
    candidates = _candidates(run_dir)
    first, losses = [], {}
    for directory in candidates:
        state, sidecar = _read(directory / STATE), _read(directory / SIDECAR)
        if not first and isinstance(best := state.get("best"), list) and best:
            first = [best[0]]
        loss = (sidecar.get("validation") or {}).get("loss") if isinstance(sidecar.get("validation"), dict) else None
        if isinstance(loss, int | float) and math.isfinite(loss):
            losses[directory] = loss
    first.append(pointed_step(run_dir / CHECKPOINTS / BEST))
    ranked = [path for step in first for path in candidates if step is not None and _step_of(path) == step]
    ranked += sorted(losses, key=losses.__getitem__)
    if candidates and not ranked:
        raise UserError(
            f"{run_dir}: no checkpoint has a validation loss, so none is the best; use the run itself for the newest checkpoint"
        )
    return list(dict.fromkeys(ranked))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, earliest first, without the leftovers of killed saves.

    A copied folder `latest` or `best` counts as a checkpoint if no other one has its step.
    """
    parent = run_dir / CHECKPOINTS
    found = {checkpoint_step(path): path for path in _steps(parent) if not path.is_symlink()}
    for path, step in copied_pointers(parent).items():
        found.setdefault(step, path)
    return [found[step] for step in sorted(found)]


def copied_pointers(parent: Path) -> dict[Path, int]:
    """Return those of `latest` and `best` that are folders themselves (rsync -L, zip, cp -rL), and their steps."""
    copies = [path for path in (parent / LATEST, parent / BEST) if path.is_dir() and not path.is_symlink()]
    return {path: step for path in copies if (step := _step_of(path)) is not None}


def pointed_step(pointer: Path) -> int | None:
    """Return the step that `latest` or `best` stands for: a link, a text file with the name, or a copy."""
    if pointer.is_symlink():
        name = Path(os.readlink(pointer)).name
    elif pointer.is_dir():
        return _step_of(pointer)
    else:
        try:
            with pointer.open("rb") as file:
                name = Path(file.read(4096).decode("utf-8", "replace").strip()).name if pointer.is_file() else ""
        except OSError:
            return None
    digits = name.removeprefix("step-")
    return int(digits) if name.startswith("step-") and digits.isdecimal() else None


def _step_of(directory: Path) -> int | None:
    if directory.name.startswith("step-"):
        return int(directory.name.removeprefix("step-"))
    step = _read(directory / SIDECAR).get("step")
    return step if isinstance(step, int) and (directory / MODEL).is_file() else None


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict if it cannot be read."""
    try:
        return read_json(path)
    except UserError:
        return {}


def checkpoint_step(path: Path) -> int:
    """Return the step in the name of a checkpoint's or snapshot's directory; for a copied pointer, that in its sidecar."""
    step = _step_of(path)
    assert step is not None, "as it was found"
    return step


def list_snapshots(run_dir: Path) -> list[Path]:
    """Return the snapshots of a run's power-function averages, earliest first."""
    return _steps(run_dir / SNAPSHOTS)


def _steps(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())


def folders_of(run_dir: Path | None, recipe: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the folders that relative paths in a run's recipe may refer to: where the run is now, where it was started.

    recipe: its tables. With run.dir = "RUNS", the run RUNS/NAME is in the folder it was started in, even if both were moved.
    """
    if run_dir is None:
        return ()
    found, table = [], recipe.get("run")
    parts = Path(str(table.get("dir", "runs"))).parts if isinstance(table, Mapping) else ()
    parent = run_dir.absolute().parent
    if parts and not Path(*parts).is_absolute() and ".." not in parts and parent.parts[-len(parts) :] == parts:
        found.append(Path(*parent.parts[: -len(parts)]))
    if isinstance(started := _read(run_dir / STARTED).get("folder"), str):
        found.append(Path(started))
    return tuple(dict.fromkeys(found))


def read_model_json(path: Path) -> dict[str, Any]:
    """Return the checked content of a sidecar, with renamed keys translated. Raises UserError naming the wrong field."""
    verify(path)
    content = read_json(path)
    check_fields(path, content)
    return translated_sidecar(content)


def read_normalizer(files: CheckpointFiles, info: dict[str, Any]) -> Normalizer:
    """Return the normalizer that the model was trained with. info: the sidecar's content. Raises UserError."""
    from flowkit.data.arrays import load_arrays
    from flowkit.data.normalizers import normalizer_from_json

    content = info["normalizer"]
    arrays = {}
    if "file" in content:
        verify(files.sidecar.with_name(content["file"]))
        arrays = load_arrays(files.sidecar.with_name(content["file"]))
    try:
        normalizer = normalizer_from_json(content, arrays)
        if not normalizer.fits(tuple(info["shape"])):
            raise ValueError(f"it was not fitted on rows of shape {info['shape']}, as the model expects")
        return normalizer
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.sidecar}: its normalizer is not valid ({error})") from None


def verify_weights(files: CheckpointFiles, which: str) -> None:
    """Check the checksum of the weights `which`, if the file exists. Raises UserError."""
    averages = files.averages()
    label = which.removeprefix("ema:")
    verify(
        averages[label]
        if which.startswith("ema:") and label in averages
        else files.weights("ema" if which == "ema" else "raw")
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into `model`. Raises UserError for other names or shapes, before anything changes."""
    model.load_state_dict(read_weights(model, path))


def read_weights(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file, on the CPU. Raises UserError if names or shapes differ from the model's."""
    from flowkit.data.tensors import load_tensors

    verify(path)
    check_weights(model, path)
    return load_tensors(path)


def check_weights(model: nn.Module, path: Path) -> None:
    """Compare a weight file's header with the tensors of a model. Raises UserError."""
    check_shapes({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, path)


def check_shapes(expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare the tensors of a file with `expected` names and shapes. Raises UserError listing what differs."""
    found = {name: entry.shape for name, entry in read_header(path).items()}
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [f"{name} is {found[name]}, not {shape}" for name, shape in expected.items()
              if name in found and found[name] != shape]  # fmt: skip
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({listing(missing, 3)})")
    if surplus:
        problems.append(f"{len(surplus)} tensors are unexpected ({listing(surplus, 3)})")
    if shapes:
        problems.append(f"{len(shapes)} shapes differ ({listing(shapes, 3)})")
    if problems:
        raise UserError(f"{path}: does not fit the architecture: {'; '.join(problems)}")


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (and no folder {path.parent})"
    return nearest(path.name, [sibling.name for sibling in path.parent.iterdir() if not sibling.name.startswith(".")])
