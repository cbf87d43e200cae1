"""Pick a torch device by name."""

from __future__ import annotations

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
