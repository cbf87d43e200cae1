"""Where a checkpoint's files lie and what its sidecar says. Torch-free: headers and JSON only.

`--ckpt` takes a run (its latest checkpoint), a checkpoint directory, or a .safetensors file with its .json beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.data.checksums import verify
from flowkit.data.files import read_json
from flowkit.data.header import read_header
from flowkit.errors import UserError, listing, nearest
from flowkit.sidecar import check_fields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.data.normalizers import Normalizer

CHECKPOINTS, LATEST, BEST = "checkpoints", "latest", "best"
MODEL, EMA, SIDECAR = "model.safetensors", "ema.safetensors", "model.json"
SNAPSHOTS, SNAPSHOT = "ema", "snapshot.json"  # of averages from which others are made
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
EMA_OF = "ema-{}.safetensors"  # averages after the first, by their labels
END = "end.json"  # of a run that has ended and was not killed: at which step, and why
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


def find_checkpoint(path: Path | str) -> CheckpointFiles:
    """The files of the checkpoint that `path` names. Raises UserError saying what is there instead."""
    path = Path(path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise UserError(f"{path}: no such file{_siblings(path)}")
        sidecar = path.with_suffix(".json")
        if not sidecar.is_file():
            sidecar = path.with_name(SIDECAR)  # ema.safetensors shares model.json
        if not sidecar.is_file():
            raise UserError(
                f"{path}: has no {path.with_suffix('.json').name} beside it to say which architecture it is"
            )
        return CheckpointFiles(path.parent, path, None, sidecar, None)
    run_dir = None
    directory = path
    if (path / CHECKPOINTS).is_dir():
        run_dir, directory = path, path / CHECKPOINTS / LATEST
        if not directory.is_dir():
            steps = list_checkpoints(path)
            if not steps:
                raise UserError(f"{path}: this run has saved no checkpoint yet; its first comes at train.save_every")
            directory = steps[-1]
    elif path.parent.name == CHECKPOINTS:
        run_dir = path.parent.parent
    if not directory.exists():
        raise UserError(f"{path}: no such run or checkpoint{_siblings(path)}")
    if not (directory / MODEL).is_file():
        raise UserError(f"{directory}: holds no {MODEL}; expected a run directory, a checkpoint or a .safetensors file")
    ema = directory / EMA
    return CheckpointFiles(directory, directory / MODEL, ema if ema.is_file() else None, directory / SIDECAR, run_dir)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, earliest first. What a killed save left behind is hidden and not among them."""
    return [path for path in _steps(run_dir / CHECKPOINTS) if not path.is_symlink()]


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's or a snapshot's directory is named after."""
    return int(path.name.removeprefix("step-"))


def list_snapshots(run_dir: Path) -> list[Path]:
    """The whole snapshots of a run's power-function averages, earliest first."""
    return _steps(run_dir / SNAPSHOTS)


def _steps(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())


def read_model_json(path: Path) -> dict[str, Any]:
    """The sidecar's content, its fields checked. Raises UserError naming what is missing or of another type."""
    verify(path)
    content = read_json(path)
    check_fields(path, content)
    return content


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
