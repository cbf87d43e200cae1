"""Checksums of a directory's files, in a file next to them, to detect corruption on reading."""

from __future__ import annotations

import zlib
from pathlib import Path

from flowkit.data.files import read_json, write_json
from flowkit.errors import UserError

CHECKSUMS = "checksums.json"
BLOCK = 1 << 20


def write_checksums(directory: Path) -> None:
    """Write `checksums.json`: the CRC-32 of every other file in the directory, which detects any single flipped bit."""
    sums = {path.name: crc32(path) for path in sorted(directory.iterdir()) if path.is_file() and path.name != CHECKSUMS}
    write_json(directory / CHECKSUMS, {"crc32": sums})


def verify(path: Path) -> None:
    """Raise UserError if the file does not match its checksum. Files without a checksum pass."""
    listed = path.with_name(CHECKSUMS)
    if not listed.is_file() or not path.is_file():
        return
    sums = read_json(listed).get("crc32")
    wanted = sums.get(path.name) if isinstance(sums, dict) else None
    try:
        found = wanted if wanted is None else crc32(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if found != wanted:
        raise UserError(
            f"{path}: checksum mismatch: the file is corrupt. Use another checkpoint; --resume, and --ckpt with the run "
            "directory, use the newest intact one"
        )


def crc32(path: Path) -> str:
    """Return the CRC-32 of a file as eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
