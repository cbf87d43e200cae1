"""A folder, a zip or one file as a list of entries that are read one by one; nothing is ever extracted to disk."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from flowkit.errors import UserError
from flowkit.sketch.importers.items import Unreadable

_SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SPLIT_NAMES = _SPLIT_NAMES.keys()
MAX_DIRECTORY = 64_000_000  # bytes of a zip's directory: half a million members or more, each of which takes memory
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)


def split_name(name: str) -> str:
    """ "train", "validation" or "test" for the spellings that data sets use."""
    return _SPLIT_NAMES[name]


@dataclass(frozen=True)
class Entry:
    parts: tuple[str, ...]  # folders below the source, and the file's name
    size: int  # bytes, uncompressed
    key: Path | zipfile.ZipInfo

    @property
    def name(self) -> str:
        return "/".join(self.parts)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.parts[-1]).suffix.lower()

    @property
    def stem(self) -> str:
        return PurePosixPath(self.parts[-1]).stem


class Files:
    def __init__(self, name: str, entries: Sequence[Entry], archive: zipfile.ZipFile | None = None) -> None:
        self.name = name  # of the folder or file, without suffix: the class of what lies in no folder
        self.entries = sorted(entries, key=lambda entry: entry.parts)
        self.consumed = 0  # bytes, for progress; importers add to it
        self._archive = archive

    def only(self, suffix: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.suffix == suffix]

    @contextmanager
    def open(self, entry: Entry) -> Iterator[IO[bytes]]:
        """The bytes of one entry. Raises Unreadable where the disk or the zip does not give them."""
        try:
            if isinstance(entry.key, Path):
                stream: IO[bytes] = open(entry.key, "rb")  # noqa: SIM115
            else:
                assert self._archive is not None
                stream = self._archive.open(entry.key)
        except BROKEN_ZIP as error:
            raise Unreadable("cannot be read", str(error)) from None
        with stream:
            yield stream

    def read(self, entry: Entry, limit: int) -> bytes:
        """All bytes of one entry, at most `limit` whatever the zip's directory says. Raises Unreadable."""
        with self.open(entry) as stream:
            try:
                data = stream.read(limit + 1)
            except BROKEN_ZIP as error:
                raise Unreadable("cannot be read", str(error)) from None
        if len(data) > limit:
            raise Unreadable(f"is larger than {limit // 1_000_000} MB")
        return data


@contextmanager
def open_files(source: Path) -> Iterator[Files]:
    """A folder, a .zip or a single file. Raises UserError: nothing there, no zip, members that would leave the folder."""
    if source.is_dir():
        yield Files(_as_text(source.resolve().name), list(_walk(source)))
        return
    try:
        with open(source, "rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{source}: no such file or folder") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    if not source.is_file():
        raise UserError(f"{source}: is no regular file; expected a folder, a .zip or a file")
    if source.suffix.lower() != ".zip":
        yield Files(_as_text(source.stem), [Entry((_as_text(source.name),), source.stat().st_size, source)])
        return
    try:
        with open(source, "rb") as file:
            check_directory(file, MAX_DIRECTORY)
        archive = zipfile.ZipFile(source)
    except BROKEN_ZIP as error:
        raise UserError(f"{source}: is no whole zip file ({error}); download or pack it again") from None
    with archive:
        yield Files(_as_text(source.stem), list(_members(source, archive)), archive)


def check_directory(file: IO[bytes], limit: int) -> None:
    """Raise ValueError where a zip's directory is larger than that: `zipfile` reads all of it, and each member takes a
    kilobyte of memory. The size stands in the record at the end of the file, or in that of a zip64 before it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 98))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        return  # no zip, as `zipfile` will say
    claimed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if tail[max(0, at - 20) : at].startswith(b"PK\6\7"):  # a zip64, whose own record stands before that pointer to it
        claimed = int.from_bytes(tail[max(0, at - 36) : max(0, at - 28)], "little")
    if min(claimed, size) > limit:
        raise ValueError(f"its directory is larger than {limit // 1_000_000} MB; unpack it, and name the folder")


def _walk(folder: Path) -> Iterator[Entry]:
    """Files below a folder; links to folders are followed, each real folder once."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _ignored(name))
        parts = Path(where).relative_to(folder).parts
        for name in names:
            path = Path(where, name)
            if not _ignored(name) and path.is_file():
                yield Entry(tuple(map(_as_text, (*parts, name))), path.stat().st_size, path)


def _members(source: Path, archive: zipfile.ZipFile) -> Iterator[Entry]:
    for info in archive.infolist():
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
            raise UserError(
                f"{source}: its member {info.filename!r} points outside of the archive; such a zip is not read. "
                f"Pack the files again, with paths relative to one folder"
            )
        if not info.is_dir() and not any(map(_ignored, parts)):
            yield Entry(parts, info.file_size, info)


def _as_text(name: str) -> str:
    """A file name that is no UTF-8 comes as half characters, which no sidecar takes: `?` for each."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def places(entries: Sequence[Entry], fallback: str) -> list[tuple[str, str]]:
    """(split, class) of each entry from its folders: `class/...` or `split/class/...`, below whatever all share.

    The split is "" unless the first folder of every entry names one. Files in no folder of their own are of one
    class, named after the folder that holds them all (`fallback` when there is none).
    """
    folders = [entry.parts[:-1] for entry in entries]
    shared = 0
    while len({f[shared] if len(f) > shared else None for f in folders}) == 1 and len(folders[0]) > shared:
        if folders[0][shared] in SPLIT_NAMES:
            break
        shared += 1
    if shared:
        fallback = folders[0][shared - 1]
    rest = [f[shared:] for f in folders]
    is_split = all(f and f[0] in SPLIT_NAMES for f in rest)
    out = []
    for f in rest:
        split, below = (split_name(f[0]), f[1:]) if is_split else ("", f)
        out.append((split, below[0] if below else fallback))
    return out
