"""Read and write torch tensors in .safetensors files, with clear error messages."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from flowkit.data.header import read_header
from flowkit.errors import UserError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load every tensor of the file, on the CPU. Raises UserError if it is missing or incomplete."""
    read_header(path)  # its messages are clearer than the library's
    try:
        return safetensors_torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a valid safetensors file ({error}); copy or write it again") from None


def save_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors, no two of which share memory. The header has the format field that accelerate and transformers expect."""
    safetensors_torch.save_file(tensors, path, {"format": "pt"})
