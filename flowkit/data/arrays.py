"""Reading a .safetensors file's tensors into numpy, with one clear message for a file that is none. Torch-free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from flowkit.data.header import read_header
from flowkit.errors import UserError


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file, read into memory. Raises UserError when it is missing or not whole."""
    from safetensors.numpy import load_file

    read_header(path)  # says what is wrong in words
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or write it again") from None
