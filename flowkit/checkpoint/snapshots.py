"""Snapshots of the power-function averages: `ema/step-NNNNNNNN/`, which appear whole or not at all, and are all kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from flowkit.checkpoint import SNAPSHOT, SNAPSHOTS, checkpoint_step, list_snapshots
from flowkit.checkpoint.files import plain, sync
from flowkit.data.files import make_readable, tensor_file_errors, write_json
from flowkit.data.tensors import save_file
from flowkit.errors import UserError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def save_snapshot(
    run_dir: Path, step: int, averages: dict[str, dict[str, Tensor]], averaged: list[str], dtype: str
) -> Path:
    """Write the averages, a file each by label ("power-0.05"), in "fp16", "bf16" or "fp32". Returns the directory.

    averaged: the names of those tensors that are averages and no buffers.
    """
    parent = run_dir / SNAPSHOTS
    target = parent / f"step-{step:08d}"
    partial = parent / f".{target.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for label, tensors in averages.items():
            narrowed = {name: _narrowed(tensor, DTYPES[dtype]) for name, tensor in plain(tensors).items()}
            with tensor_file_errors():
                save_file(narrowed, partial / f"{label}.safetensors")
        write_json(partial / SNAPSHOT, {"step": step, "averages": list(averages), "dtype": dtype, "averaged": averaged})
        for file in partial.iterdir():
            make_readable(file)
            sync(file)
        sync(partial)
        if target.exists():  # a resumed run passes this step again
            shutil.rmtree(target)
        partial.rename(target)
        sync(parent)
    except OSError as error:
        raise UserError(
            f"{target}: the snapshot cannot be written ({error.strerror or error}); earlier ones are untouched. "
            "Training goes on; the next is tried when it is due"
        ) from None
    return target


def drop_later_snapshots(run_dir: Path, step: int) -> None:
    """Remove those after `step`, where a run is about to continue: they are of a future that may not come."""
    for path in list_snapshots(run_dir):
        if checkpoint_step(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, unless a number would overflow there."""
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(dtype)
    return narrow if bool(narrow.isfinite().all()) else tensor
