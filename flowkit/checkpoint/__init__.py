"""Where a checkpoint's files lie and what its sidecar says. Torch-free: headers and JSON only.

`--ckpt` takes a run (its newest whole checkpoint), a checkpoint directory, or a .safetensors file with its .json beside it.
`latest` and `best` are hints for people: links, copies, text files or lost, they are never needed to find a checkpoint.
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
from flowkit.renamed import translated_sidecar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.data.normalizers import Normalizer

CHECKPOINTS, LATEST, BEST = "checkpoints", "latest", "best"
MODEL, EMA, SIDECAR = "model.safetensors", "ema.safetensors", "model.json"
SNAPSHOTS, SNAPSHOT = "ema", "snapshot.json"  # of averages from which others are made
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
EMA_OF = "ema-{}.safetensors"  # averages after the first, by their labels
END = "end.json"  # of a run that has ended and was not killed: at which step, and why
RECIPE = "recipe.toml"  # beside the checkpoints: the folder that holds both is the run
STARTED = "run.json"  # the folder that a run was started in, to which relative paths of its recipe are relative
METRICS = "metrics.jsonl"  # beside the checkpoints, an object a line
MAX_LINE = 1_000_000  # bytes of it: a longer one is none of ours
NORMALIZER = "normalizer.safetensors"  # of normalizers that are more than a few numbers a dimension


@dataclass(frozen=True)
class CheckpointFiles:
    """`model` and `ema` hold the same tensors; `ema` is None where there was no EMA or only one file was named."""

    directory: Path
    model: Path
    ema: Path | None
    sidecar: Path
    run_dir: Path | None
    notice: str = ""  # which damaged checkpoint it stands in for, and why

    def weights(self, which: str) -> Path:
        """The file of "ema" or "raw" weights, or of one average among several: "ema:0.999", "ema:power-0.05".

        "ema" falls back to the only weights there are where no EMA was kept.
        """
        if which in ("ema", "raw"):
            return self.ema if which == "ema" and self.ema is not None else self.model
        averages, label = self.averages(), which.removeprefix("ema:")
        if not which.startswith("ema:"):
            others = f", nor 'ema:' and one of {listing(averages)}" if len(averages) > 1 else ""
            raise UserError(f"weights: {which!r} is neither 'ema' nor 'raw'{others}")
        if label not in averages:
            raise UserError(
                f"weights: {self.directory} holds no average {label!r}; it has {listing(averages) or 'none'}"
                f"{nearest(label, averages)}"
            )
        return averages[label]

    def averages(self) -> dict[str, Path]:
        """The files of the moving averages that lie here, by label, the one that samples come from first."""
        ema = read_json(self.sidecar).get("ema") if self.ema is not None else None
        files = {label: self.directory / name for label, name in average_files(ema).items()}
        return {label: path for label, path in files.items() if path.is_file()}


def average_files(ema: object) -> dict[str, str]:
    """File names by label ("0.9999", "power-0.05") of a sidecar's or recipe's [ema] table, the first first."""
    if not isinstance(ema, dict):
        return {}
    decay, power = ema.get("decay") or (), ema.get("power") or ()
    labels = [f"{one!r}" for one in (decay if isinstance(decay, list | tuple) else (decay,))]
    labels += [f"power-{one!r}" for one in power]
    return {label: EMA_OF.format(label) if number else EMA for number, label in enumerate(labels)}


def decay_in_effect(ema: Mapping[str, Any], decay: float, update: int) -> float:
    """The decay at `update`, counted from 1, of the average with that `decay` in a sidecar's or recipe's [ema] table.

    The first update is taken as it is. The warm-up is a factor and no bound, so that of two decays one averages more than
    the other in a run of any length: after n updates about 1 / (1 - decay + 1 / (share n)) of them.
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
    """The files of the checkpoint that `path` names. Raises UserError saying what is there instead.

    Of a run (or of its `latest`) it is the newest checkpoint that is whole, of its `best` the best one: `check` raises
    UserError for files that do not do, and `notice` then says which were passed over. Where none does, it is the newest,
    whose readers say what is wrong with it. What is named outright is never replaced by another.
    """
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
    """The run that a checkpoint's folder lies in, or that of the averages made by `flowkit ema`; None where it is in none."""
    for one in (folder, folder.absolute()):  # as it was named, where that is enough
        if one.parent.name == CHECKPOINTS:
            return one.parent.parent
        if one.name == SNAPSHOTS and (one.parent / CHECKPOINTS).is_dir():
            return one.parent
    return None


def _pointer(path: Path) -> tuple[Path, str] | None:
    """(run, "latest" or "best") where `path` is a run, its checkpoints/, its recipe.toml, or one of those two."""
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
        raise UserError(f"{path}: has no {path.with_suffix('.json').name} beside it to say which architecture it is")
    return CheckpointFiles(path.parent, path, None, sidecar, _run_of(path.parent))


def _whole(directory: Path, run_dir: Path | None) -> CheckpointFiles:
    """The files of a checkpoint's directory."""
    if not (directory / MODEL).is_file():
        raise UserError(f"{directory}: holds no {MODEL}; expected a run directory, a checkpoint or a .safetensors file")
    ema = directory / EMA
    return CheckpointFiles(directory, directory / MODEL, ema if ema.is_file() else None, directory / SIDECAR, run_dir)


def _in_run(run_dir: Path, pointer: str, check: Callable[[CheckpointFiles], object]) -> CheckpointFiles:
    candidates = _candidates(run_dir) if pointer == LATEST else _best_first(run_dir)
    if not candidates:
        raise UserError(f"{run_dir}: this run has saved no checkpoint yet; its first comes at train.save_every")
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
        return replace(files, notice=f"{passed}; {directory} is used" if passed else "")
    return _whole(candidates[0], run_dir)


def _candidates(run_dir: Path) -> list[Path]:
    """Directories of checkpoints, whole or not, the newest first. A copied pointer comes after the one it is a copy of."""
    parent = run_dir / CHECKPOINTS
    found = [(checkpoint_step(path), 1, path) for path in _steps(parent) if not path.is_symlink()]
    found += [(step, 0, path) for path, step in copied_pointers(parent).items()]
    return [path for _, _, path in sorted(found, reverse=True)]


def _best_first(run_dir: Path) -> list[Path]:
    """The candidates that have a validation loss, the best first: by the newest state.json, by `best`, by their losses.

    Raises UserError where nothing says which is the best.
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
            f"{run_dir}: none of its checkpoints has a validation loss, so none is the best; leave that out for the newest"
        )
    return list(dict.fromkeys(ranked))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, earliest first. What a killed save left behind is hidden and not among them.

    A copied folder `latest` or `best` counts as a checkpoint if no other one has its step.
    """
    parent = run_dir / CHECKPOINTS
    found = {checkpoint_step(path): path for path in _steps(parent) if not path.is_symlink()}
    for path, step in copied_pointers(parent).items():
        found.setdefault(step, path)
    return [found[step] for step in sorted(found)]


def copied_pointers(parent: Path) -> dict[Path, int]:
    """Those of `latest` and `best` that are folders of their own (rsync -L, zip, cp -rL), and the steps they are copies of."""
    copies = [path for path in (parent / LATEST, parent / BEST) if path.is_dir() and not path.is_symlink()]
    return {path: step for path in copies if (step := _step_of(path)) is not None}


def pointed_step(pointer: Path) -> int | None:
    """The step that `latest` or `best` stands for: as a link, a text file with the name (git without links), or a copy."""
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
    """The content of a JSON that is only looked through; nothing of one that cannot be read."""
    try:
        return read_json(path)
    except UserError:
        return {}


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's or a snapshot's directory is named after; of a copied pointer, that of its sidecar."""
    step = _step_of(path)
    assert step is not None, "as it was found"
    return step


def list_snapshots(run_dir: Path) -> list[Path]:
    """The whole snapshots of a run's power-function averages, earliest first."""
    return _steps(run_dir / SNAPSHOTS)


def _steps(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())


def folders_of(run_dir: Path | None, recipe: Mapping[str, Any]) -> tuple[Path, ...]:
    """Where the relative paths of a run's recipe may be relative to: where the run lies now, where it was started.

    recipe: its tables. The run RUNS/NAME of run.dir = "RUNS" lies in the folder it was started in, wherever both went.
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
    """The sidecar's content, its fields checked. Raises UserError naming what is missing or of another type."""
    verify(path)
    content = read_json(path)
    check_fields(path, content)
    return translated_sidecar(content)


def read_normalizer(files: CheckpointFiles, info: dict[str, Any]) -> Normalizer:
    """The normalizer that the model learned under. `info`: the sidecar's content. Raises UserError where it is damaged."""
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
            raise ValueError(f"it is of rows of another shape than {info['shape']}")
        return normalizer
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.sidecar}: its normalizer cannot be understood ({error})") from None


def verify_weights(files: CheckpointFiles, which: str) -> None:
    """Raise UserError where the weights `which` are there, and are not what was saved."""
    averages = files.averages()
    label = which.removeprefix("ema:")
    verify(
        averages[label]
        if which.startswith("ema:") and label in averages
        else files.weights("ema" if which == "ema" else "raw")
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into `model`. Raises UserError where names or shapes differ, before anything is changed."""
    model.load_state_dict(read_weights(model, path))


def read_weights(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU. Raises UserError where `model` has others by name or shape."""
    from flowkit.data.tensors import load_tensors

    verify(path)
    check_weights(model, path)
    return load_tensors(path)


def check_weights(model: nn.Module, path: Path) -> None:
    """Compare a weight file's header with the tensors a model has, so that a mismatch is told before anything is loaded."""
    check_shapes({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, path)


def check_shapes(expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raises UserError, which lists some of what differs, where a file's tensors are others by name or shape."""
    found = {name: entry.shape for name, entry in read_header(path).items()}
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [f"{name} is {found[name]}, not {shape}" for name, shape in expected.items()
              if name in found and found[name] != shape]  # fmt: skip
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing ({listing(missing, 3)})")
    if surplus:
        problems.append(f"{len(surplus)} tensors are not the model's ({listing(surplus, 3)})")
    if shapes:
        problems.append(f"{len(shapes)} shapes differ ({listing(shapes, 3)})")
    if problems:
        raise UserError(f"{path}: does not fit the architecture: {'; '.join(problems)}")


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder {path.parent})"
    return nearest(path.name, [sibling.name for sibling in path.parent.iterdir() if not sibling.name.startswith(".")])
