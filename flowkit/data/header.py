"""Read and check the header of a .safetensors file, without loading a tensor (or torch).

The layout (safetensors' README): 8 bytes of little-endian header length, that many bytes of JSON, the tensors' bytes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
NUMPY_NAMES = {
    "F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2", "I16": "<i2",
    "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
# The format allows 100 MB, which would take more than 2 GB when parsed. 25 MB are enough for 100,000 tensors.
MAX_HEADER = 25_000_000
MAX_DIMENSIONS = 32  # numpy's


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
    """Return dtypes, shapes and byte ranges of the tensors in `path`, by name. Raises UserError if the file is incomplete."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would never end
            what = "a folder" if os.path.isdir(path) else "not a regular file"
            raise UserError(f"{path}: is {what}; expected a .safetensors file")
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UserError(_broken(path, "its header is longer than the file"))
            if length > MAX_HEADER:
                raise UserError(_broken(path, f"its header is longer than {MAX_HEADER // 1_000_000} MB"))
            header = parse_json(file.read(length).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except ValueError:
        raise UserError(_broken(path, "its header is not valid JSON")) from None
    if not isinstance(header, dict):
        raise UserError(_broken(path, "its header is not a JSON object"))
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(_whole(n) for n in entry["shape"])
            start, stop = (_whole(offset) for offset in entry["data_offsets"])
            found = TensorEntry(str(entry["dtype"]), shape, 8 + length + start, 8 + length + stop)
            whole = found.nbytes == found.numel * ITEM_BYTES[found.dtype] and _addressable(shape)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(_broken(path, f"the entry of tensor {name!r} cannot be read")) from None
        if not whole:
            raise UserError(_broken(path, f"the entry of tensor {name!r} is inconsistent"))
        if found.stop > size:
            raise UserError(_broken(path, f"tensor {name!r} ends at byte {found.stop} of {size}"))
        entries[name] = found
    return entries


def _whole(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(number)
    return number


def _addressable(shape: tuple[int, ...]) -> bool:
    """Return whether an array could have that shape. An empty array may have any size in its other dimensions."""
    return len(shape) <= MAX_DIMENSIONS and math.prod(n for n in shape if n) < 2**60


def _broken(path: Path, why: str) -> str:
    return f"{path}: not a valid safetensors file: {why}. It may be truncated; copy or write it again"
