"""Saving and loading checkpoints: directories that appear whole or not at all, in safetensors and JSON only.

A checkpoint is written to a hidden sibling, synced to disk and renamed; only then do `latest` and `best` move, and only
then are old ones removed. So there is always a whole one, whenever the process is killed. Nothing depends on the two: where
a disk has no links they are text files, and where they cannot be written at all the user is told so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
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
    STATE,
    CheckpointFiles,
    check_shapes,
    checkpoint_step,
    copied_pointers,
    list_checkpoints,
    pointed_step,
)
from flowkit.checkpoint.files import sync
from flowkit.checkpoint.state import read_run_state
from flowkit.data.checksums import CHECKSUMS, verify, write_checksums
from flowkit.data.files import make_readable, read_json, tensor_file_errors, write_json
from flowkit.data.tensors import load_tensors, save_file
from flowkit.distributed.sharding import full_tensors, part_of
from flowkit.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW, a parameter


def contents(
    model: nn.Module, averages: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint by file name, then by their own. averages: the moving averages by file name.

    A collective where the model is sharded: the main process gets whole tensors then, in the host's memory, others none.
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
    """Write `checkpoints/step-NNNNNNNN`, move `latest` and `best`, remove what need not be kept. Returns its path.

    tensors: the `contents`, in the host's memory; no two share theirs. Kept are the last `keep_last` (0: all), those of every
    `keep_every`th step (0: none), the best, and what any pointer names. `notice` is told of what could not be done and is not
    needed. Raises UserError where the checkpoint cannot be written; earlier ones are untouched then.
    """
    parent = run_dir / CHECKPOINTS
    target = parent / f"step-{step:08d}"
    partial = parent / f".{target.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with tensor_file_errors():
            for file, named in tensors.items():
                save_file(named, partial / file)
            if normalizer:
                save_file({name: torch.from_numpy(array) for name, array in normalizer.items()}, partial / NORMALIZER)
        write_json(partial / SIDECAR, sidecar)
        write_json(partial / STATE, state)
        write_checksums(partial)
        for file in partial.iterdir():
            make_readable(file)
            sync(file)
        sync(partial)
        if target.exists():  # a run that was resumed from an earlier checkpoint passes this step again
            old = parent / f".{target.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.rename(target)
        sync(parent)
    except (OSError, UserError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint is of no use, and may be what fills the disk
        raise UserError(
            f"{target}: the checkpoint cannot be written ({_reason(error)}); earlier checkpoints are untouched"
        ) from None
    for pointer in (LATEST, BEST) if best else (LATEST,):
        try:
            _point(parent / pointer, target.name)
        except (OSError, UserError) as error:
            notice(
                f"{parent / pointer}: cannot be written ({_reason(error)}). Nothing needs it: --ckpt {run_dir} and --resume "
                "find the checkpoint by themselves"
            )
    try:
        _prune(run_dir, step, state.get("best"), keep_last, keep_every)
    except OSError as error:
        notice(f"{parent}: an old checkpoint cannot be removed ({_reason(error)})")
    return target


def _reason(error: Exception) -> object:
    return error.strerror or error if isinstance(error, OSError) else error


def check_resumable(files: CheckpointFiles) -> None:
    """Raise UserError unless all that was saved of a checkpoint is there, and as it was saved."""
    read_run_state(files.directory)
    listed = files.directory / CHECKSUMS
    sums = read_json(listed).get("crc32") if listed.is_file() else {}
    for name in sums if isinstance(sums, dict) else ():
        if not (files.directory / name).is_file():
            raise UserError(f"{files.directory / name}: no such file; it was saved with the checkpoint")
        verify(files.directory / name)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restore AdamW's moments and step counts by parameter name. Raises UserError where they are another model's."""
    verify(path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    check_shapes({f"{part}/{names[parameter]}": () if part == "step" else tuple(parameter.shape)
                  for parameter in trained for part in MOMENTS}, path)  # fmt: skip
    tensors = load_tensors(path)
    for parameter in trained:
        found = {part: tensors[f"{part}/{names[parameter]}"].to(torch.float32) for part in MOMENTS}
        # `step` stays where the fused kernel wants it: beside its parameter.
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
    """Make `latest` or `best` a relative link to `target` in one atomic step; a text file with that name where a disk has none.

    Raises OSError or UserError where neither can be.
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
    """A pointer that was copied as a folder (rsync -L, zip) takes the place of its checkpoint where that did not come along."""
    step = copied_pointers(pointer.parent).get(pointer)
    if step is None:
        raise UserError("a folder is there that is no checkpoint")
    own = pointer.with_name(f"step-{step:08d}")
    if own.exists():
        old = pointer.with_name(f".{own.name}.{pointer.name}.old")  # removed with what is pruned
        shutil.rmtree(old, ignore_errors=True)
        pointer.rename(old)
    else:
        pointer.rename(own)


def _prune(run_dir: Path, step: int, best: tuple[int, float] | None, keep_last: int, keep_every: int) -> None:
    """Later ones than `step` are left alone: this run passed them over because they are damaged, or will write them anew."""
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
        # Renamed first: a removal that is cut short must not leave half a checkpoint under a checkpoint's name.
        path.rename(parent / f".{path.name}.old")
    for path in parent.glob(".step-*.old"):
        shutil.rmtree(path, ignore_errors=True)
