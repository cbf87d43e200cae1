"""Pick a torch device by name, and set how it computes for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from flowkit.errors import UserError


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
