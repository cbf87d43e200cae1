"""Vectors from other people's files: .npy, .safetensors, or a .pt of tensors. Torch is imported for a .pt alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.dataset import check_finite, memory_map
from flowkit.data.header import NUMPY_NAMES, read_header
from flowkit.errors import UserError, listing, nearest

SUFFIXES = (".npy", ".safetensors", ".pt", ".pth")
FLOATS = ("F64", "F32", "F16", "BF16")  # by safetensors' names


def read_vectors(path: Path | str) -> np.ndarray:
    """The rows (N, D) float32 of a tensor file, in its order: memory-mapped where they lie in it as float32.

    A file of several tensors is asked for "x", else for its only matrix. A .pt is read with `weights_only=True`, which
    runs no code of its author. Raises UserError: another suffix, a file that is not whole, anything but one matrix of
    floats with a row at least, NaN or infinity (their rows are named).
    """
    path = Path(path)
    readers = {".npy": _npy, ".safetensors": _safetensors, ".pt": _torch_save, ".pth": _torch_save}
    if path.suffix not in readers:
        raise UserError(
            f"{path}: is no kind of file that vectors are read from; known are {listing(SUFFIXES)}"
            f"{nearest(path.suffix, SUFFIXES)}"
        )
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a file of vectors")
    rows = readers[path.suffix](path)
    if rows.ndim != 2 or not rows.size:
        raise UserError(
            f"{path}: has shape {rows.shape}; expected (N, D): a vector of D numbers for each of N sentences"
        )
    if rows.dtype.kind != "f":
        raise UserError(f"{path}: holds {rows.dtype} numbers; vectors are floating-point")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and named as such
        rows = rows.astype(np.float32, copy=False)
    check_finite(path, "vectors", rows)
    return rows


def _npy(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        Exception
    ) as error:  # a header made to break its reader raises anything: TokenError, OverflowError, BadZipFile
        raise UserError(f"{path}: not a whole .npy array of numbers ({error}); copy or write it again") from None
    if not isinstance(found, np.ndarray):  # a .npz under another name
        raise UserError(f"{path}: holds several arrays, or none; expected a .npy of one")
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
    except (
        Exception
    ) as error:  # a stream made to break its reader can raise anything; whatever it raises, it is refused
        if type(error).__name__ == "UnpicklingError":  # torch's own message advises to turn the guard off
            raise UserError(
                f"{path}: holds other Python objects than tensors (or is no file of torch.save), and is not read, since that "
                "may run code; save the bare tensor: torch.save(vectors, ...)"
            ) from None
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a whole file of torch.save ({why}); copy or write it again") from None
    if isinstance(found, Mapping):
        tensors = {str(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
        found = tensors[_matrix(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()})]
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        held = "sparse or quantised tensor" if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError(f"{path}: holds a {held}; expected one plain tensor (N, D)")
    if not found.is_floating_point() or found.device.type != "cpu" or found.is_conj() or found.is_neg():
        raise UserError(
            f"{path}: holds {found.dtype} on {found.device}; expected a plain tensor of floating-point numbers"
        )
    # Strides of zero make a tensor of any size out of one number.
    if found.untyped_storage().nbytes() < found.numel() * found.element_size():
        raise UserError(f"{path}: claims {found.numel():,} numbers and holds fewer; save a contiguous tensor")
    # Numpy has neither bfloat16 nor the eight-bit floats.
    found = found.detach()
    return (found if found.dtype in (torch.float16, torch.float32, torch.float64) else found.float()).numpy()


def _matrix(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which of several tensors the vectors are."""
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    if "x" in shapes or len(matrices) == 1:
        return "x" if "x" in shapes else matrices[0]
    held = listing(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    wrong = "holds no matrix" if not matrices else f"holds {len(matrices)} matrices and none is called 'x'"
    raise UserError(f"{path}: {wrong} ({held}); expected one tensor (N, D), a row for each sentence")
