"""Torch's tensors to and from .safetensors files, with one clear message for a file that is none."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from flowkit.data.header import read_header
from flowkit.errors import UserError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, on the CPU. Raises UserError when it is missing or not whole."""
    read_header(path)  # says what is wrong in words; the library's own errors are for those who know the format
    try:
        return safetensors_torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or write it again") from None


def save_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors of which no two share memory. The header says what accelerate, transformers and others ask it for."""
    safetensors_torch.save_file(tensors, path, {"format": "pt"})
