"""Read vectors from .npy, .npz, .safetensors and .pt files of tensors. Imports torch for .pt only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.dataset import check_finite, memory_map
from flowkit.data.header import NUMPY_NAMES, read_header
from flowkit.errors import Unreadable, UserError, listing
from flowkit.sources.arrays import Arrays, described, open_arrays
from flowkit.sources.files import GZIP, Entry, Files, open_files
from flowkit.sources.kinds import ARRAYS, BY_SUFFIX, TENSORS, refusal

SUFFIXES = tuple(suffix for suffix, kind in BY_SUFFIX.items() if kind in (*ARRAYS, *TENSORS))
FLOATS = ("F64", "F32", "F16", "BF16")  # by safetensors' names
MAX_ARRAY = 32_000_000_000  # bytes of an array that has to be decompressed


def read_vectors(path: Path | str) -> np.ndarray:
    """Return the rows (N, D) float32 of a tensor file, memory-mapped if they are stored as float32.

    The file type is detected by content. Of several tensors, "x" is read, or else the only matrix. A .pt is read with
    `weights_only=True`, which runs no code. Raises UserError for another file type, a truncated file, anything but one
    matrix of floats with at least one row, and for NaN or infinity (naming the rows).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file of vectors: {listing(SUFFIXES)}")
    with open_files(path) as files:
        entry, kind = files.entries[0] if len(files.entries) == 1 else None, ""
        if entry is not None:
            kind = files.kind(entry)
        if entry is None or entry.key != path or kind not in (*ARRAYS, *TENSORS):
            why = refusal(kind, str(path))
            why = f"is not read: {why}" if why else "is not a file of vectors"
            raise UserError(f"{path}: {why}; expected {listing(SUFFIXES)}")
        if kind in ARRAYS:
            rows = _arrays(path, files, entry)
        elif _is_gzip(path):
            raise UserError(f"{path}: compressed tensor files are not read; unpack it: gunzip -k {path}")
        else:
            rows = _safetensors(path) if kind == "safetensors" else _torch_save(path)
    if rows.ndim != 2 or not rows.size:
        raise UserError(f"{path}: has shape {rows.shape}; expected (N, D): one vector of D numbers per sentence")
    if rows.dtype.kind != "f":
        raise UserError(f"{path}: holds {rows.dtype} values; expected floating-point numbers")
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and are reported below
        rows = rows.astype(np.float32, copy=False)
    check_finite(path, "vectors", rows)
    return rows


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _arrays(path: Path, files: Files, entry: Entry) -> np.ndarray:
    try:
        with open_arrays(files, entry, MAX_ARRAY) as arrays:
            held = {key: arrays.about(key) for key in arrays.keys}
            objects = [key for key, (_, dtype) in held.items() if dtype.hasobject]
            if len(held) == len(objects) == 1:
                return _stacked(path, arrays, objects[0])
            if (objects and len(held) == 1) or not held:
                raise UserError(f"{path}: holds {described(arrays)}; expected one array (N, D)")
            plain = {key: shape for key, (shape, dtype) in held.items() if not dtype.hasobject}
            key = _matrix(path, plain) if len(held) > 1 else next(iter(held))
            dtype = held[key][1]
            if dtype.kind != "f" and "pictures" in (what := described(arrays)):
                raise UserError(f"{path}: holds {what}")
            if files.kind(entry) == "npy" and not _is_gzip(path):
                return _npy(path)
            return arrays.array(key)
    except Unreadable as error:
        kind = files.kind(entry)
        raise UserError(
            f"{path}: truncated or corrupt .{kind} file ({error.detail or error}); copy or write it again"
        ) from None
    except MemoryError:
        raise UserError(f"{path}: the array does not fit in memory; save it as .npy, which is memory-mapped") from None


def _stacked(path: Path, arrays: Arrays, key: str) -> np.ndarray:
    """Read an object array whose elements are vectors of one length, without unpickling."""
    command = (
        f"if you trust it, convert it: python -c \"import numpy as np; np.save('vectors.npy', "
        f"np.stack(np.load('{path}', allow_pickle=True)).astype('float32'))\""
    )
    try:
        found = arrays.objects(key)
    except Unreadable:
        raise UserError(
            f"{path}: holds pickled Python objects, which are not read because unpickling can run code; {command}"
        ) from None
    lengths = {-1 if one is None or one.ndim != 1 else len(one) for one in found}
    if lengths == {-1} or len(lengths) != 1:
        what = (
            "arrays of different lengths"
            if len(lengths) > 1 and -1 not in lengths
            else "Python objects other than vectors"
        )
        raise UserError(f"{path}: holds {what}; expected one array (N, D): one vector of D numbers per sentence. "
                        f"If they can be stacked, {command}")  # fmt: skip
    return np.stack([np.asarray(one, np.float64) for one in found])


def _npy(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # malicious headers can raise anything: TokenError, OverflowError, BadZipFile
        raise UserError(f"{path}: truncated or corrupt .npy file ({error}); copy or write it again") from None
    if not isinstance(found, np.ndarray):  # a .npz with another suffix
        raise UserError(f"{path}: expected a .npy file with one array")
    return found


def _safetensors(path: Path) -> np.ndarray:
    header = read_header(path)
    name = _matrix(path, {name: entry.shape for name, entry in header.items()})
    entry = header[name]
    if entry.dtype not in FLOATS:
        raise UserError(f"{path}: tensor {name!r} is {entry.dtype}; expected one of {listing(FLOATS)}")
    if entry.dtype in NUMPY_NAMES or not entry.numel:
        return memory_map(path, entry) if entry.numel else np.empty(entry.shape, np.float32)
    halves = np.memmap(path, "<u2", mode="r", offset=entry.start, shape=entry.shape)
    return (halves.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32


def _torch_save(path: Path) -> np.ndarray:
    import torch

    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # malicious files can raise anything; the file is refused in any case
        if type(error).__name__ == "UnpicklingError":  # torch's own message suggests weights_only=False
            raise UserError(
                f"{path}: cannot be read safely: it holds Python objects other than tensors, or is not a file of torch.save. "
                "Reading it could run code; save the bare tensor: torch.save(vectors, ...)"
            ) from None
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: truncated or corrupt file of torch.save ({why}); copy or write it again") from None
    if isinstance(found, Mapping):
        tensors = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
        found = tensors[_matrix(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()})]
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        held = "sparse or quantized tensor" if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError(f"{path}: holds a {held}; expected one plain tensor (N, D)")
    if not found.is_floating_point() or found.device.type != "cpu" or found.is_conj() or found.is_neg():
        raise UserError(
            f"{path}: holds {found.dtype} on {found.device}; expected a plain tensor of floating-point numbers"
        )
    # With strides of zero, one number is a tensor of any size.
    if found.untyped_storage().nbytes() < found.numel() * found.element_size():
        raise UserError(f"{path}: its tensor of {found.numel():,} numbers stores fewer; save a contiguous tensor")
    # Numpy has neither bfloat16 nor the eight-bit floats.
    found = found.detach()
    return (found if found.dtype in (torch.float16, torch.float32, torch.float64) else found.float()).numpy()


def _matrix(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the tensor that holds the vectors."""
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    if "x" in shapes or len(matrices) == 1:
        return "x" if "x" in shapes else matrices[0]
    held = listing(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    wrong = "holds no matrix" if not matrices else f"holds {len(matrices)} matrices and none is called 'x'"
    raise UserError(f"{path}: {wrong} ({held}); expected one tensor (N, D), with one row per sentence")
