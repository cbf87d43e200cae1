"""A .safetensors file's header, read and checked without loading a tensor (or torch).

The layout (safetensors' README): 8 bytes of little-endian header length, that many bytes of JSON, the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from flowkit.errors import UserError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
NUMPY_NAMES = {
    "F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2", "I16": "<i2",
    "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
MAX_HEADER = 100_000_000  # the format's own bound


@dataclass(frozen=True)
class TensorEntry:
    dtype: str  # safetensors' name: "F32"
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    stop: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Names, dtypes, shapes and places of the tensors in `path`. Raises UserError if the file is not whole."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise UserError(_broken(path, "its header is longer than the file"))
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a .safetensors file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise UserError(_broken(path, "its header is no JSON")) from None
    if not isinstance(header, dict):
        raise UserError(_broken(path, "its header is no JSON object"))
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(n) for n in entry["shape"])
            start, stop = (int(offset) for offset in entry["data_offsets"])
            found = TensorEntry(str(entry["dtype"]), shape, 8 + length + start, 8 + length + stop)
            whole = min(shape, default=0) >= 0 and start >= 0 and found.nbytes == found.numel * ITEM_BYTES[found.dtype]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(_broken(path, f"the entry of tensor {name!r} cannot be read")) from None
        if not whole:
            raise UserError(_broken(path, f"the entry of tensor {name!r} contradicts itself"))
        if found.stop > size:
            raise UserError(_broken(path, f"tensor {name!r} ends at byte {found.stop} of {size}"))
        entries[name] = found
    return entries


def _broken(path: Path, why: str) -> str:
    return f"{path}: not a whole safetensors file: {why}. It may be truncated; copy or write it again"
