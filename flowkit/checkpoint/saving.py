"""Write checkpoints and snapshots of averages as directories that appear whole or not at all, in safetensors and JSON only.

A checkpoint is written to a hidden sibling, synced to disk and renamed. Only then are `latest` and `best` moved, and only
then are old checkpoints removed. So there is always an intact one, whenever the process is killed. `latest` and `best` are
conveniences: text files on a disk without links, and a notice if they cannot be written at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.checkpoint import (
    BEST,
    CHECKPOINTS,
    LATEST,
    MODEL,
    NORMALIZER,
    OPTIMIZER,
    SIDECAR,
    SNAPSHOT,
    SNAPSHOTS,
    STATE,
    check_shapes,
    checkpoint_step,
    copied_pointers,
    list_checkpoints,
    list_snapshots,
    pointed_step,
)
from flowkit.data.checksums import verify, write_checksums
from flowkit.data.files import make_readable, tensor_file_errors, write_json
from flowkit.data.tensors import load_tensors, save_file
from flowkit.distributed.sharding import full_tensors, part_of
from flowkit.errors import UserError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # of snapshots
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW, per parameter


def contents(
    model: nn.Module, averages: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by file name, then by tensor name. averages: the moving averages by file name.

    A collective if the model is sharded: the main process then gets whole tensors in host memory, the others nothing.
    """
    modules = {MODEL: model, **averages}
    files = {file: dict(module.state_dict()) for file, module in modules.items()}
    files[OPTIMIZER] = _optimizer_tensors(model, optimizer)
    return {file: full_tensors(named) for file, named in files.items()}


def save_checkpoint(
    run_dir: Path,
    step: int,
    *,
    tensors: dict[str, dict[str, Tensor]],
    normalizer: dict[str, np.ndarray],
    sidecar: dict[str, Any],
    state: dict[str, Any],
    best: bool,
    keep_last: int,
    keep_every: int,
    notice: Callable[[str], object] = lambda text: None,
) -> Path:
    """Write `checkpoints/step-NNNNNNNN`, move `latest` and `best`, and remove old checkpoints. Return the path.

    tensors: from `contents`, in host memory, no two sharing memory. Kept are the last `keep_last` (0: all), those of every
    `keep_every`th step (0: none), the best, and what a pointer names. notice: called with each problem that does not matter for
    the checkpoint itself. Raises UserError if the checkpoint cannot be written; earlier ones are then untouched.
    """
    parent = run_dir / CHECKPOINTS
    target = parent / f"step-{step:08d}"
    with _published(target, "checkpoint") as partial:
        for file, named in tensors.items():
            save_file(named, partial / file)
        if normalizer:
            save_file({name: torch.from_numpy(array) for name, array in normalizer.items()}, partial / NORMALIZER)
        write_json(partial / SIDECAR, sidecar)
        write_json(partial / STATE, state)
        write_checksums(partial)
    for pointer in (LATEST, BEST) if best else (LATEST,):
        try:
            _point(parent / pointer, target.name)
        except (OSError, UserError) as error:
            notice(
                f"{parent / pointer}: cannot be written ({_reason(error)}). Nothing depends on it: --ckpt {run_dir} and --resume "
                "find the checkpoint without it"
            )
    try:
        _prune(run_dir, step, state.get("best"), keep_last, keep_every)
    except OSError as error:
        notice(f"{parent}: an old checkpoint cannot be removed ({_reason(error)})")
    return target


@contextlib.contextmanager
def _published(target: Path, what: str) -> Iterator[Path]:
    """Yield a hidden sibling to write into, which replaces `target` once it is fully on disk.

    what: its name in messages. Raises UserError if that fails, and leaves nothing behind.
    """
    partial, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with tensor_file_errors():
            yield partial
        for file in partial.iterdir():
            make_readable(file)
            _sync(file)
        _sync(partial)
        if target.exists():  # the run was resumed from an earlier checkpoint and reaches this step again
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, UserError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # useless, and may be what fills the disk
        raise UserError(
            f"{target}: the {what} cannot be written ({_reason(error)}); earlier {what}s are untouched"
        ) from None


def _sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk. Not every file system can sync a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> object:
    return error.strerror or error if isinstance(error, OSError) else error


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restore AdamW's moments and step counts by parameter name. Raises UserError if they belong to another model."""
    verify(path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    check_shapes({f"{part}/{names[parameter]}": () if part == "step" else tuple(parameter.shape)
                  for parameter in trained for part in MOMENTS}, path)  # fmt: skip
    tensors = load_tensors(path)
    for parameter in trained:
        found = {part: tensors[f"{part}/{names[parameter]}"].to(torch.float32) for part in MOMENTS}
        # The fused kernel needs `step` on the parameter's device.
        optimizer.state[parameter] = {
            part: (tensor if part == "step" else part_of(tensor, parameter)).to(parameter.device)
            for part, tensor in found.items()
        }


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": value
        for name, parameter in model.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _point(pointer: Path, target: str) -> None:
    """Atomically make `latest` or `best` a relative link to `target`, or a text file with that name on a disk without links.

    Raises OSError or UserError if neither works.
    """
    if pointer.is_dir() and not pointer.is_symlink():
        _put_copy_away(pointer)
    partial = pointer.with_name(f".{pointer.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        try:
            partial.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):
            partial.write_text(f"{target}\n", "utf-8")
        os.replace(partial, pointer)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _put_copy_away(pointer: Path) -> None:
    """Turn a pointer that was copied as a folder (rsync -L, zip) into the checkpoint itself, if that is missing."""
    step = copied_pointers(pointer.parent).get(pointer)
    if step is None:
        raise UserError("there is a folder that is not a checkpoint")
    own = pointer.with_name(f"step-{step:08d}")
    if own.exists():
        old = pointer.with_name(f".{own.name}.{pointer.name}.old")  # removed by `_prune`
        shutil.rmtree(old, ignore_errors=True)
        pointer.rename(old)
    else:
        pointer.rename(own)


def _prune(run_dir: Path, step: int, best: tuple[int, float] | None, keep_last: int, keep_every: int) -> None:
    """Remove old checkpoints up to `step`. Later ones are corrupt and were skipped, or will be written again."""
    parent = run_dir / CHECKPOINTS
    checkpoints = [
        path for path in list_checkpoints(run_dir) if path.name.startswith("step-") and checkpoint_step(path) <= step
    ]
    steps = {pointed_step(path) for path in parent.iterdir() if path.is_symlink() or path.name in (LATEST, BEST)}
    kept = {path.name for path in checkpoints[-keep_last:]}
    for path in checkpoints:
        number = checkpoint_step(path)
        if (
            path.name in kept
            or number in steps
            or (best is not None and number == best[0])
            or (keep_every and number % keep_every == 0)
        ):
            continue
        # Rename first: an interrupted removal must not leave half a checkpoint under a valid name.
        path.rename(parent / f".{path.name}.old")
    for path in parent.glob(".step-*.old"):
        shutil.rmtree(path, ignore_errors=True)


def save_snapshot(
    run_dir: Path, step: int, averages: dict[str, dict[str, Tensor]], averaged: list[str], dtype: str
) -> Path:
    """Write `ema/step-NNNNNNNN`: one file per power-function average ("power-0.05"), in "fp16", "bf16" or "fp32".

    All snapshots are kept, since other averages are made from them. averaged: names of the tensors that are averages, not
    buffers. Return the directory.
    """
    target = run_dir / SNAPSHOTS / f"step-{step:08d}"
    with _published(target, "snapshot") as partial:
        for label, tensors in averages.items():
            narrowed = {name: _narrowed(tensor, DTYPES[dtype]) for name, tensor in _plain(tensors).items()}
            save_file(narrowed, partial / f"{label}.safetensors")
        write_json(partial / SNAPSHOT, {"step": step, "averages": list(averages), "dtype": dtype, "averaged": averaged})
    return target


def drop_later_snapshots(run_dir: Path, step: int) -> None:
    """Remove the snapshots after `step` when a run resumes there: the resumed run may diverge from them."""
    for path in list_snapshots(run_dir):
        if checkpoint_step(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous, unshared tensors, as safetensors requires: tied weights are written under each name."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return found


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to `dtype`, unless a number would overflow."""
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(dtype)
    return narrow if bool(narrow.isfinite().all()) else tensor
