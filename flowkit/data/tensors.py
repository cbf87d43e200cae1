"""Reading a .safetensors file's tensors into torch, with one clear message for a file that is none."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowkit.data.header import read_header
from flowkit.errors import UserError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, on the CPU. Raises UserError when it is missing or not whole."""
    read_header(path)  # says what is wrong in words; the library's own errors are for those who know the format
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or write it again") from None
