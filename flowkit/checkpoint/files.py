"""What checkpoints and snapshots share in writing their files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from torch import Tensor


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous and unshared, as safetensors demands: weights that a module ties are written under each of their names."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return found


def sync(path: Path) -> None:
    """Have a file, or a directory's entries, reach the disk. Not every file system can sync a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)
