"""Arrays in files: the tensors of a .safetensors file, and rows of a memory map without keeping its pages. Torch-free."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from flowkit.data.header import read_header
from flowkit.errors import UserError

GATHERED = 1024  # rows of a memory map that are read before their pages are let go


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file, read into memory. Raises UserError when it is missing or not whole."""
    from safetensors.numpy import load_file

    read_header(path)  # says what is wrong in words
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy or write it again") from None


def gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, a copy. Of a memory map it lets the pages go as it reads: the system maps sixteen for each that is asked
    for, so that rows from all over a large file would soon hold most of it in memory.
    """
    if not isinstance(getattr(array, "_mmap", None), mmap.mmap):
        return array[rows]
    picked = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start in range(0, len(rows), GATHERED):
        picked[start : start + GATHERED] = array[rows[start : start + GATHERED]]
        forget_pages(array)
    return picked


def forget_pages(array: np.ndarray) -> None:
    """Let go of a memory map's pages that were looked at: who reads all of a file once should not seem to hold it all."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
