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
) -> None:
    """Write `arrays`, or of each of them only `rows`, in that order. Raises OSError where the disk does not take them.

    The layout is `flowkit.data.header`'s; the header is padded to a multiple of 8 bytes and wide numbers come first, so
    that a memory map of any tensor is aligned. `progress` is told how many bytes are written, of how many.
    """
    names = {np.dtype(name): safetensors_name for safetensors_name, name in NUMPY_NAMES.items()}
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header, total = {}, 0
    for name, array in ordered:
        shape = (len(array) if rows is None else len(rows), *array.shape[1:])
        start, total = total, total + int(np.prod(shape, dtype=np.int64)) * array.dtype.itemsize
        header[name] = {"dtype": names[array.dtype], "shape": shape, "data_offsets": (start, total)}
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    with open(path, "wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for _, array in ordered:
            count = len(array) if rows is None else len(rows)
            step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
            for first in range(0, count, step):
                piece = slice(first, first + step)
                file.write(np.ascontiguousarray(array[piece] if rows is None else array[rows[piece]]).tobytes())
                if progress:
                    progress(file.tell() - 8 - len(described), total)
