"""Members of .npz files from strangers: plain arrays only, bounded, and never unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from tokenize import TokenError
from typing import IO

import numpy as np

from flowkit.sketch.importers.files import BROKEN_ZIP, Entry, Files, check_directory
from flowkit.sketch.importers.items import Unreadable

MAX_NPZ = 500_000_000  # bytes of an .npz inside a zip, or of one member
MAX_DIRECTORY = 10_000_000  # bytes of the list of its members
# What numpy and zipfile raise when the bytes are wrong.
_BROKEN = (*BROKEN_ZIP, KeyError, TypeError, SyntaxError, MemoryError, RecursionError, TokenError)


class Npz:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f".npy version {version}")
        return shape, dtype

    def is_object(self, key: str) -> bool:
        with self.open(key) as stream:
            return self.header(stream)[1].hasobject

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """A member's bytes. Whatever goes wrong in reading them is Unreadable."""
        try:
            info = self._archive.getinfo(key + ".npy")
            if info.file_size > MAX_NPZ:
                raise Unreadable(f"is larger than {MAX_NPZ // 1_000_000} MB", key)
            with self._archive.open(info) as stream:
                yield stream
        except Unreadable:
            raise
        except _BROKEN as error:
            raise Unreadable("is no readable .npz", f"{key}: {error}") from None

    def array(self, key: str, limit: int = MAX_NPZ) -> np.ndarray:
        """A plain array of at most `limit` bytes. Raises Unreadable for one of Python objects, which only pickle could read."""
        if self.is_object(key):
            raise Unreadable("holds pickled Python objects, which are refused; save plain arrays", key)
        with self.open(key) as stream:
            shape, dtype = self.header(stream)
        if math.prod(shape) * dtype.itemsize > limit:
            raise Unreadable(f"holds an array of more than {limit // 1_000_000} MB", key)
        with self.open(key) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


@contextmanager
def open_npz(files: Files, entry: Entry) -> Iterator[Npz]:
    """Raises Unreadable where the file is no .npz."""
    with files.open(entry) as stream:
        source = stream if stream.seekable() and not isinstance(stream, zipfile.ZipExtFile) else None
        source = source or BytesIO(files.read(entry, MAX_NPZ))
        try:
            check_directory(source, MAX_DIRECTORY)
            archive = zipfile.ZipFile(source)
        except BROKEN_ZIP as error:
            raise Unreadable("is no readable .npz", str(error)) from None
        with archive:
            yield Npz(archive)
