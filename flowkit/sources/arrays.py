"""Read arrays from untrusted .npz and .npy files, bounded and without unpickling, and tell what they hold."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from flowkit.errors import Unreadable, listing
from flowkit.sources.files import BROKEN_ZIP, Entry, Files, check_directory
from flowkit.sources.kinds import FOREIGN, KNOWN, refusal
from flowkit.sources.object_arrays import read_object_array
from flowkit.sources.splits import split_of

MAX_NPZ = 500_000_000  # bytes of an .npz inside a zip, or of one member
MAX_ROWS = 1_000_000  # of an array that may be a drawing; far more points than a drawing has
MAX_DIRECTORY = 10_000_000  # bytes of the directory of an .npz
CONTROLSKETCH = "svg_"  # "svg_32s" in the published data: 32 strokes
# Exceptions of numpy and zipfile for corrupt files.
_BROKEN = (*BROKEN_ZIP, KeyError, TypeError, SyntaxError, MemoryError, RecursionError, TokenError)


class Arrays:
    """The arrays of an .npz by key, or the array of an .npy by file name."""

    def __init__(self, members: Mapping[str, Callable[[], AbstractContextManager[IO[bytes]]]], limit: int) -> None:
        self._members, self._limit = members, limit
        self.keys = list(members)

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """Open the bytes of a member. Any error while reading becomes Unreadable."""
        try:
            with self._members[key]() as stream:
                yield stream
        except Unreadable:
            raise
        except _BROKEN as error:
            raise Unreadable("is not a readable array", f"{key}: {error or type(error).__name__}") from None

    def header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f".npy version {version}")
        return shape, dtype

    def about(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return (shape, dtype) of an array without reading it."""
        with self.open(key) as stream:
            return self.header(stream)

    def array(self, key: str, limit: int | None = None) -> np.ndarray:
        """Return a plain array of at most `limit` bytes. Raises Unreadable for pickled Python objects."""
        shape, dtype = self.about(key)
        if dtype.hasobject:
            raise Unreadable("holds pickled Python objects, which are not read; save plain arrays", key)
        limit = limit or self._limit
        if math.prod(shape) * dtype.itemsize > limit:
            raise Unreadable(f"holds an array of more than {limit // 1_000_000} MB", key)
        with self.open(key) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def objects(self, key: str) -> list[np.ndarray | None]:
        """Return the numeric arrays of a pickled array of arrays (None for other elements) without unpickling."""
        with self.open(key) as stream:
            self.header(stream)
            try:
                return read_object_array(stream)
            except ValueError as error:
                raise Unreadable(
                    "holds Python objects other than arrays of numbers, which are refused", str(error)
                ) from None


@contextmanager
def open_arrays(files: Files, entry: Entry, limit: int = MAX_NPZ) -> Iterator[Arrays]:
    """Open an .npz or .npy file; raises Unreadable for others. limit: bytes per array, and of compressed files."""
    kind = files.kind(entry)
    if kind == "npy":
        yield Arrays({entry.stem: lambda: files.open(entry)}, limit)
        return
    if kind in FOREIGN:
        raise Unreadable("is not a readable .npz", f"it is {FOREIGN[kind].name}")
    with files.open(entry) as stream:
        source = stream if stream.seekable() and not isinstance(stream, zipfile.ZipExtFile) else None
        source = source or BytesIO(files.read(entry, limit))
        try:
            check_directory(source, MAX_DIRECTORY)
            archive = zipfile.ZipFile(source)
        except BROKEN_ZIP as error:
            raise Unreadable("is not a readable .npz", str(error)) from None
        with archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            yield Arrays({name.removesuffix(".npy"): _member(archive, name, limit) for name in names}, limit)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        info = archive.getinfo(name)
        if info.file_size > limit:
            raise Unreadable(f"is larger than {limit // 1_000_000} MB", name)
        return archive.open(info)

    return opened


def hold(arrays: Arrays) -> str:
    """Return what arrays hold, by key, shape and type: "controlsketch", "strokes", "vectors", "texts", or "" for neither.

    Strokes: rows (n, 3) of dx, dy, pen-lift or (n, 5) with three pen states; (N, n, 3) or (N, n, 5); or arrays of such arrays.
    """
    if any(key.startswith(CONTROLSKETCH) for key in arrays.keys):
        return "controlsketch"
    found = ""
    for key in arrays.keys[:64]:
        try:
            found = _holds(arrays, key)
        except Unreadable:
            if split_of(key):
                return "strokes"  # the stroke reader reports the error
            raise
        if found:
            break
    return found


def _holds(arrays: Arrays, key: str) -> str:
    shape, dtype = arrays.about(key)
    if dtype.hasobject:
        elements = [one for one in arrays.objects(key) if one is not None]
        return "vectors" if elements and elements[0].ndim == 1 else "strokes" if elements or split_of(key) else ""
    if dtype.kind == "U" and len(shape) == 1:
        return "texts"
    if dtype.kind not in "iuf":
        return ""
    if len(shape) == 3 and shape[2] in (3, 5):
        return "strokes"
    if (
        len(shape) == 2
        and shape[1] in (3, 5)
        and 0 < shape[0] < MAX_ROWS
        and (split_of(key) or _ends_in_pens(arrays.array(key)))
    ):
        return "strokes"
    return "vectors" if len(shape) == 2 and dtype.kind == "f" else ""


def _ends_in_pens(rows: np.ndarray) -> bool:
    """Return whether all columns after dx, dy are 0 or 1."""
    return bool(np.isin(rows[:, 2:], (0, 1)).all())


def found_in(files: Files) -> tuple[str, str]:
    """Return what the first file of arrays holds (see `hold`, or "unreadable") and a description; ("", "") if there is none."""
    for entry in files.of_kind("npz", "npy")[:1]:
        try:
            with open_arrays(files, entry) as arrays:
                return hold(arrays), f"{entry.name}: {described(arrays)}"
        except Unreadable as error:
            return "unreadable", f"{entry.name}: {error}"
    return "", ""


def why_unread(source: Path, files: Files) -> str:
    """Return the message for a source that no domain can read: what it contains, and what flowkit reads."""
    only = files.only
    held, what = found_in(files)
    if held == "" and what:
        return f"{source}: holds neither drawings nor vectors: {what.partition(': ')[2].replace('FILE', str(source))}"
    if only is not None:
        name = str(source) if only.key == source else only.name
        why = refusal(files.kind(only), name) or "unknown file type"
        where = "" if only.key == source else f" ({name}, its only file; run unzip {source} first)"
        return f"{source}: cannot be read{where}: {why}. {KNOWN}"
    suffixes = Counter(entry.suffix for entry in files.entries)
    counts = ", ".join(f"{n:,} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common(5)) or "it is empty"
    root = f"{source}/" if files.folder else ""
    hint = next((f"; {why}" for entry in files.entries if (why := refusal(files.kind(entry), root + entry.name))), "")
    return f"{source}: holds no files that flowkit can read ({counts}{hint}). {KNOWN}"


def described(arrays: Arrays) -> str:
    """Return `x (12, 1024) float32, y (12,) int64`. For pictures, text and prepared drawings, say how to convert them."""
    parts = []
    for key in arrays.keys[:8]:
        try:
            shape, dtype = arrays.about(key)
        except Unreadable:
            parts.append(f"{key} (not readable)")
            continue
        parts.append(f"{key} {shape} {'Python objects' if dtype.hasobject else dtype}")
        if dtype.kind == "U":
            return (
                f"{key} {shape}: text. Write it as lines: python -c \"import numpy; f = numpy.load('FILE'); "
                f"f = f if isinstance(f, numpy.ndarray) else f['{key}']; open('sentences.txt', 'w', encoding='utf-8').write("
                "'\\n'.join(' '.join(str(s).split()) for s in f.ravel()))\""
            )
        if shape[1:] in ((784,), (28, 28)):
            return (
                f"{key} {shape} {dtype}: pictures of 28 x 28 pixels (such as the bitmaps of Quick, Draw!), not strokes. "
                "Use the same drawings as .ndjson (simplified files of Quick, Draw!) or as .npz of sketch-rnn"
            )
        if len(shape) == 3 and shape[2] == 8 and dtype.kind == "f":
            return (
                f"{key} {shape} {dtype}: prepared drawings of {shape[1]} cubics each. Save them as a data set: "
                'python -c "import numpy as np; from flowkit.data.dataset import Dataset, write_dataset; '
                f"write_dataset('data/mine', Dataset('sketch', np.load('FILE').astype('float32')))\""
            )
    return listing(parts, 8) or "no arrays"
