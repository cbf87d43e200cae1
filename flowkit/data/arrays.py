"""Arrays in files: read .safetensors whole or write them in pieces, and read rows of a memory map. Torch-free."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from flowkit.data.header import NUMPY_NAMES, read_header
from flowkit.errors import UserError
from flowkit.progress import Progress

GATHERED = 1024  # rows of a memory map to read before its pages are released
CHUNK_BYTES = 1 << 26  # bytes to write at a time


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of the file into memory. Raises UserError if it is missing or incomplete."""
    from safetensors.numpy import load_file

    read_header(path)  # its messages are clearer
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a valid safetensors file ({error}); copy or write it again") from None


def gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `array[rows]`, a copy. Releases the pages of a memory map while reading.

    The system maps sixteen pages for each one read, so that rows from all over a large file would soon keep most of it in memory.
    """
    if not isinstance(getattr(array, "_mmap", None), mmap.mmap):
        return array[rows]
    picked = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start in range(0, len(rows), GATHERED):
        picked[start : start + GATHERED] = array[rows[start : start + GATHERED]]
        forget_pages(array)
    return picked


def forget_pages(array: np.ndarray) -> None:
    """Release the pages of a memory map, so that reading a whole file once does not keep it in memory."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def write_tensors(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    rows: np.ndarray | None = None,
    progress: Progress | None = None,
    fixed: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `arrays`, or only `rows` of each of them, in that order, and `fixed` whole. Raises OSError.

    For the layout see `flowkit.data.header`. The header is padded to a multiple of 8 bytes and wide numbers come first, so that a
    memory map of any tensor is aligned. progress: called with the bytes written and the total.
    """
    names = {np.dtype(name): safetensors_name for safetensors_name, name in NUMPY_NAMES.items()}
    parts = [*((name, array, rows) for name, array in arrays.items()), *((*one, None) for one in (fixed or {}).items())]
    parts.sort(key=lambda part: -part[1].dtype.itemsize)
    header, total = {}, 0
    for name, array, picked in parts:
        shape = (len(array) if picked is None else len(picked), *array.shape[1:])
        start, total = total, total + int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
        header[name] = {"dtype": names[array.dtype], "shape": shape, "data_offsets": (start, total)}
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    with open(path, "wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for _, array, picked in parts:
            count = len(array) if picked is None else len(picked)
            step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
            for first in range(0, count, step):
                piece = slice(first, first + step)
                file.write(np.ascontiguousarray(array[piece] if picked is None else array[picked[piece]]).tobytes())
                if progress:
                    progress(file.tell() - 8 - len(described), total)
