"""Pick a torch device by name, set how it computes for a while, and tell whether the host may read its results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import UserError

_recording = False


def pick_device(name: str | torch.device, *, cuda_only: bool = False) -> torch.device:
    """Return the device `name`. "auto" is the accelerator if there is one, else the CPU.

    cuda_only: "auto" only considers CUDA, for libraries that support no other accelerator. Raises UserError if the device is not
    available.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found if found is not None and (found.type == "cuda" or not cuda_only) else torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise UserError(f"device: {str(name)!r} is not available here; use 'auto' or 'cpu'") from None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host, without waiting for the device.

    A copy to CUDA waits unless it comes from pinned memory. Torch keeps pinned memory and reuses it only after the copies from it
    have finished: a copy records its stream, and freed memory waits for an event of that stream (ATen's CachingHostAllocator). So
    buffers of our own, reused in turn, would gain nothing.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Allow TF32 for float32 products on CUDA, and restore the setting at the end.

    TF32 keeps three more bits than bf16 and is several times as fast as float32.
    """
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def repeatable_products() -> Iterator[None]:
    """Use only deterministic algorithms, and restore the settings at the end.

    Uninitialized memory is not filled, which would add a kernel to every allocation. flowkit reads none.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def host_may_read(device: torch.device) -> bool:
    """Return whether the host may decide by what is in a tensor: on the CPU, where reading is free, except in a recorded update.

    Elsewhere it would wait for the device.
    """
    return device.type == "cpu" and not _recording


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Compute on the CPU as on a GPU, without reading a result, so that the operations can be recorded and replayed."""
    global _recording
    before, _recording = _recording, True
    try:
        yield
    finally:
        _recording = before


def held_exactly(value: float, device: torch.device) -> float:
    """Return `value` as a tensor holds it that a recorded update reads: in float32 on a GPU, in float64 on the CPU."""
    return value if device.type == "cpu" else float(np.float32(value))
