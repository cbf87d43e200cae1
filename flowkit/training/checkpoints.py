"""Saving and loading checkpoints: directories that appear whole or not at all, in safetensors and JSON only.

A checkpoint is written to a hidden sibling, synced to disk and renamed; only then do `latest` and `best` move, and only
then are old ones removed. So there is always a whole one, whenever the process is killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
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
    check_shapes,
    checkpoint_step,
    list_checkpoints,
)
from flowkit.data.checksums import verify, write_checksums
from flowkit.data.files import make_readable, tensor_file_errors, write_json
from flowkit.data.tensors import load_tensors
from flowkit.errors import UserError
from flowkit.training.files import sync
from flowkit.training.sharding import full_tensors, part_of

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
) -> Path:
    """Write `checkpoints/step-NNNNNNNN`, move the links, remove what need not be kept. Returns its path.

    tensors: the `contents`, in the host's memory; no two share theirs. Kept are the last `keep_last` (0: all), those of every
    `keep_every`th step (0: none) and the best. Raises UserError where it cannot be written; earlier ones are untouched then.
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
                save_arrays(normalizer, partial / NORMALIZER)
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
        _link(parent / LATEST, target.name)
        if best:
            _link(parent / BEST, target.name)
        _prune(run_dir, keep_last, keep_every)
    except (OSError, UserError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint is of no use, and may be what fills the disk
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise UserError(
            f"{target}: the checkpoint cannot be written ({reason}); earlier checkpoints are untouched"
        ) from None
    return target


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


def _link(link: Path, target: str) -> None:
    """Point a relative link at `target` in one atomic step."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target, target_is_directory=True)
    os.replace(partial, link)


def _prune(run_dir: Path, keep_last: int, keep_every: int) -> None:
    parent = run_dir / CHECKPOINTS
    checkpoints = list_checkpoints(run_dir)
    kept = {path.name for path in checkpoints[-keep_last:]} | set(_targets((parent / LATEST, parent / BEST)))
    for path in checkpoints:
        if path.name not in kept and not (keep_every and checkpoint_step(path) % keep_every == 0):
            # Renamed first: a removal that is cut short must not leave half a checkpoint under a checkpoint's name.
            path.rename(parent / f".{path.name}.old")
    for path in parent.glob(".step-*.old"):
        shutil.rmtree(path, ignore_errors=True)


def _targets(links: Iterable[Path]) -> list[str]:
    return [os.readlink(link) for link in links if link.is_symlink()]
