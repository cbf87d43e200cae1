"""A folder, zip or file as a list of entries to read one by one. Nothing is extracted to disk.

gzip is decompressed wherever it occurs, whatever the suffix.
"""

from __future__ import annotations

import gzip
import io
import os
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from flowkit.errors import Unreadable, UserError
from flowkit.sources.kinds import BY_SUFFIX, FOREIGN, HEAD, kind_of

MAX_DIRECTORY = 64_000_000  # bytes of a zip's directory: half a million members or more
GZIP = b"\x1f\x8b"
MAX_INFLATED, MAX_RATIO = 1_000_000_000, 200  # limits of a decompressed gzip stream: bytes, or relative to its size
_CHUNK = 1 << 20  # bytes read at once
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)


@dataclass(frozen=True)
class Entry:
    parts: tuple[str, ...]  # folders below the source, and the file's name
    size: int  # bytes; of a zip member, uncompressed
    key: Path | zipfile.ZipInfo

    @property
    def name(self) -> str:
        return "/".join(self.parts)

    @property
    def suffix(self) -> str:
        """The suffix in lower case, without `.gz`: `.txt` for `a.txt.gz`."""
        return PurePosixPath(_without_gz(self.parts[-1])).suffix.lower()

    @property
    def stem(self) -> str:
        return PurePosixPath(_without_gz(self.parts[-1])).stem


class Files:
    def __init__(
        self, name: str, entries: Sequence[Entry], archive: zipfile.ZipFile | None = None, folder: bool = False
    ) -> None:
        self.folder = folder  # whether the source is a folder
        self.name = name  # name of the folder or file without suffix; also the class of files outside class folders
        self.entries = sorted(entries, key=lambda entry: entry.parts)
        self.consumed = 0  # bytes, for progress; importers add to it
        self.notes: list[str] = []  # skipped files and doubtful choices, one sentence each
        self._archive = archive
        self._kinds: dict[Entry, str] = {}

    def kind(self, entry: Entry) -> str:
        """Return the kind of an entry by content (see `kinds.kind_of`), or by suffix if it cannot be read."""
        if entry not in self._kinds:
            try:
                with self.open(entry) as stream:
                    head = stream.read(HEAD)
            except (Unreadable, *BROKEN_ZIP):
                head = b""
            self._kinds[entry] = kind_of(head, entry.suffix)
        return self._kinds[entry]

    @property
    def only(self) -> Entry | None:
        """The entry, if the source is a single file or a zip of one; else None."""
        return self.entries[0] if len(self.entries) == 1 and not self.folder else None

    def of_kind(self, *kinds: str) -> list[Entry]:
        """Return the entries of these kinds, and entries of unsupported kinds with such a suffix, so they are reported."""
        return [
            entry
            for entry in self.entries
            if (kind := self.kind(entry)) in kinds or (kind in FOREIGN and BY_SUFFIX.get(entry.suffix) in kinds)
        ]

    def foreign(self, entry: Entry) -> Unreadable | None:
        """Return the error for an entry whose content contradicts its suffix, else None."""
        kind = self.kind(entry)
        return Unreadable(f"is {FOREIGN[kind].name} by its content") if kind in FOREIGN else None

    def note_unread(self, read: Sequence[Entry]) -> None:
        """Add notes on entries that are not among `read`, counted by suffix."""
        taken = set(read)
        counts = Counter(entry.suffix for entry in self.entries if entry not in taken)
        for suffix, count in counts.most_common():
            what = f"{suffix} file" if suffix else "file without suffix"
            what = what if count == 1 else what.replace("file", "files", 1)
            self.notes.append(f"{count:,} {what} {'was' if count == 1 else 'were'} not read")

    @contextmanager
    def open(self, entry: Entry) -> Iterator[IO[bytes]]:
        """Open the bytes of an entry, decompressing gzip. Raises Unreadable if it cannot be read."""
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(self._raw(entry))
                start = stream.read(2)
                if start == GZIP:
                    again = stack.enter_context(self._raw(entry))
                    stream = stack.enter_context(io.BufferedReader(_Inflated(again, entry.size)))
                elif stream.seekable():
                    stream.seek(0)
                else:
                    stream = stack.enter_context(self._raw(entry))
            except BROKEN_ZIP as error:
                raise Unreadable("cannot be read", str(error)) from None
            yield stream

    def _raw(self, entry: Entry) -> IO[bytes]:
        if isinstance(entry.key, Path):
            return open(entry.key, "rb")
        assert self._archive is not None
        return self._archive.open(entry.key)

    def read(self, entry: Entry, limit: int) -> bytes:
        """Return all bytes of an entry. Raises Unreadable if there are more than `limit`."""
        parts: list[bytes] = []
        size = 0
        with self.open(entry) as stream:
            try:
                # A read of the whole limit would reserve that much memory for the smallest file.
                while part := stream.read(min(_CHUNK, limit + 1 - size)):
                    parts.append(part)
                    size += len(part)
            except BROKEN_ZIP as error:
                raise Unreadable("cannot be read", str(error)) from None
        if size > limit:
            raise Unreadable(f"is larger than {limit // 1_000_000} MB")
        return b"".join(parts)


class _Inflated(io.RawIOBase):
    """A gzip stream that raises an error if it expands too much."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = gzip.GzipFile(fileobj=stream), max(MAX_INFLATED, MAX_RATIO * size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), _CHUNK))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"its gzip stream expands to more than {MAX_RATIO} times its size")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_files(source: Path) -> Iterator[Files]:
    """Open a folder, zip or single file. Raises UserError if it is missing, broken, or has members outside its folder."""
    if source.is_dir():
        notes: list[str] = []
        files = Files(_as_text(source.resolve().name), list(_walk(source, notes)), folder=True)
        files.notes = notes
        yield files
        return
    try:
        with open(source, "rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file or folder") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    if not source.is_file():
        raise UserError(f"{source}: is not a regular file; expected a folder, a .zip or a file")
    if kind_of(head, source.suffix.lower()) != "zip":
        entry = Entry((_as_text(source.name),), source.stat().st_size, source)
        yield Files(entry.stem, [entry])
        return
    try:
        with open(source, "rb") as file:
            check_directory(file, MAX_DIRECTORY)
        archive = zipfile.ZipFile(source)
    except BROKEN_ZIP as error:
        raise UserError(f"{source}: truncated or corrupt zip file ({error}); download or pack it again") from None
    with archive:
        notes = []
        files = Files(_as_text(source.stem), list(_members(source, archive, notes)), archive)
        files.notes = notes
        yield files


def check_directory(file: IO[bytes], limit: int) -> None:
    """Raise ValueError if the directory of a zip is larger than `limit` bytes.

    `zipfile` reads the whole directory, and needs a kilobyte of memory per member. The size is in the record at the end of
    the file, or for zip64 in the record before it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 98))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        return  # not a zip; `zipfile` reports it
    claimed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if tail[max(0, at - 20) : at].startswith(b"PK\6\7"):  # zip64: its record is before this pointer to it
        claimed = int.from_bytes(tail[max(0, at - 36) : max(0, at - 28)], "little")
    if min(claimed, size) > limit:
        raise ValueError(f"its directory is larger than {limit // 1_000_000} MB; unpack it and name the folder")


def _walk(folder: Path, notes: list[str]) -> Iterator[Entry]:
    """Yield the files in a folder tree. Links to folders are followed, but each real folder is visited once.

    Links come after ordinary folders, so that a file is found by its real path first.
    """
    passed: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    links = 0

    def refused(error: OSError) -> None:
        passed["folder cannot be opened", "folders cannot be opened"] += 1

    for where, folders, names in os.walk(folder, followlinks=True, onerror=refused):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            passed[
                "link to a folder that was already read was skipped",
                "links to folders that were already read were skipped",
            ] += 1
            continue
        seen.add(real)
        parts = Path(where).relative_to(folder).parts
        passed[HIDDEN] += sum(map(_ignored, (*folders, *names)))
        folders[:] = sorted(
            (name for name in folders if not _ignored(name)), key=lambda name: (os.path.islink(Path(where, name)), name)
        )
        links += sum(os.path.islink(Path(where, name)) for name in folders)
        for name in names:
            path = Path(where, name)
            if _ignored(name):
                continue
            if path.is_file():
                links += path.is_symlink()
                yield Entry(tuple(map(_as_text, (*parts, name))), path.stat().st_size, path)
            elif path.is_symlink():
                passed["link points to nothing", "links point to nothing"] += 1
            else:
                passed[
                    "entry is not a regular file and was not read", "entries are not regular files and were not read"
                ] += 1
    passed["link was followed", "links were followed"] += links
    notes += _counted(passed)


HIDDEN = ("hidden file or folder was not read", "hidden files or folders were not read")


def _counted(passed: Counter[tuple[str, str]]) -> list[str]:
    """Return a sentence for each (singular, plural) that occurred."""
    return [f"{count:,} {words[count != 1]}" for words, count in passed.items() if count]


def _members(source: Path, archive: zipfile.ZipFile, notes: list[str]) -> Iterator[Entry]:
    hidden = guessed = 0
    for info in archive.infolist():
        name, sure = _member_name(info)
        guessed += not sure
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
            raise UserError(
                f"{source}: its member {name!r} points outside the archive, so the zip is not read. "
                f"Pack the files again with paths relative to one folder"
            )
        if any(map(_ignored, parts)):
            hidden += not info.is_dir()
        elif not info.is_dir():
            yield Entry(tuple(map(_as_text, parts)), info.file_size, info)
    notes += _counted(Counter({HIDDEN: hidden}))
    if guessed:
        notes.append(
            f"{guessed:,} {'name' if guessed == 1 else 'names'} in the zip: unknown encoding, read as code page 437. If class "
            f"names look wrong, unpack it with the right one (unzip -O cp936 {source}) and name the folder"
        )


def _member_name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """Return (name of a member, whether its encoding is known). Many programs write UTF-8 without setting its flag."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename, True
    try:
        raw = info.filename.encode("cp437")
    except UnicodeEncodeError:
        return info.filename, True  # Python has decoded a Unicode name
    extra = info.extra
    while len(extra) >= 4:  # Info-ZIP's Unicode path: version, CRC of the standard name, UTF-8
        tag, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if tag == 0x7075 and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            return field[5:].decode("utf-8", "replace"), True
    try:
        return raw.decode("utf-8"), True
    except UnicodeDecodeError:
        return info.filename, False


def _as_text(name: str) -> str:
    """Normalize a name to NFC, and replace each byte that is not valid UTF-8 by `?`."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))


def _without_gz(name: str) -> str:
    return name[:-3] if name.lower().endswith(".gz") else name


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")
