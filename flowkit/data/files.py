"""Write files atomically, and read JSON with clear error messages."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowkit.data.strict_json import parse_json
from flowkit.errors import UserError

FORMAT = 1  # format number in every JSON that flowkit writes
MAX_JSON = 32_000_000  # bytes; parsed JSON may take twenty times as much memory
# Read at import: reading the mask sets it for the whole process, which is not safe once threads write files.
MASK = os.umask(0)
os.umask(MASK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling to write to. It replaces `path` if the block succeeds, and is removed otherwise.

    Raises UserError if it cannot be written.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from None
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        make_readable(partial)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in made:
                folder.rmdir()


def make_readable(path: Path) -> None:
    """Set the permissions of an ordinary new file: mkstemp and safetensors use 0600, which hides files from other users."""
    with contextlib.suppress(OSError):  # FAT and many network mounts have no permissions
        os.chmod(path, 0o666 & ~MASK)


@contextlib.contextmanager
def tensor_file_errors() -> Iterator[None]:
    """Turn safetensors' SafetensorError, such as for a full disk, into an OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, atomically."""
    with replacing(path) as partial:
        partial.write_text(json_text(content), "utf-8")


def json_text(content: dict[str, Any]) -> str:
    """Return indented JSON, starting with the format number."""
    return json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON that flowkit wrote. Raises UserError if it is missing, not valid, or of a newer format."""
    raw = read_bounded(path, MAX_JSON)
    try:
        content = parse_json(raw.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); it may be truncated") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    number = content.get("format")
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f'{path}: has no "format" number; it was not written by flowkit')
    if number > FORMAT:
        raise UserError(
            f"{path}: has format {number}, but this flowkit only reads formats up to {FORMAT}: upgrade flowkit"
        )
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """Read all bytes of a file. Raises UserError if it is missing, too large, or not a regular file."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is {'a folder' if path.is_dir() else 'not a regular file'}; expected a file")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > limit:
        raise UserError(f"{path}: is larger than {limit // 1_000_000} MB, the limit for such files")
    return raw
