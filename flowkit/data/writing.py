"""Writing a .safetensors piece by piece, so that what lies on the disk gets there without passing through memory whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flowkit.data.header import NUMPY_NAMES

CHUNK_BYTES = 1 << 26


def write_tensors(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    rows: np.ndarray | None = None,
    progress: Callable[[int, int], object] | None = None,
    fixed: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `arrays`, or of each of them only `rows`, in that order, and `fixed` whole. Raises OSError where the disk does not
    take them.

    The layout is `flowkit.data.header`'s; the header is padded to a multiple of 8 bytes and wide numbers come first, so
    that a memory map of any tensor is aligned. `progress` is told how many bytes are written, of how many.
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
