"""Writing files so that they appear whole or not at all, and reading JSON so that a bad file gets one clear message."""

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

FORMAT = 1  # of every JSON that flowkit writes
MAX_JSON = 32_000_000  # bytes: parsed they may take twenty times as much memory
# Read once, at import: reading the mask sets it for the whole process, and a checkpoint is written by a thread beside others.
MASK = os.umask(0)
os.umask(MASK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to; it takes the place of `path` when the block ends well, and is removed otherwise.

    Raises UserError when the place cannot be written to.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name a folder that you may write to") from None
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
        with contextlib.suppress(OSError):  # a folder that holds something stays
            for folder in made:
                folder.rmdir()


def make_readable(path: Path) -> None:
    """The permissions of an ordinary new file: mkstemp's (and safetensors') 0600 would hide it from one's colleagues."""
    with contextlib.suppress(OSError):  # FAT and many network mounts have no permissions to set
        os.chmod(path, 0o666 & ~MASK)


@contextlib.contextmanager
def tensor_file_errors() -> Iterator[None]:
    """A full disk reaches us from safetensors as its own SafetensorError; inside this it is the OSError that it stands for."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as `json_text` has it, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json_text(content), "utf-8")


def json_text(content: dict[str, Any]) -> str:
    """JSON with the format's number first, indented."""
    return json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON that flowkit wrote. Raises UserError when it is missing, broken, or of a newer format."""
    raw = read_bounded(path, MAX_JSON)
    try:
        content = parse_json(raw.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); it may be truncated") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    number = content.get("format")
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f'{path}: has no "format" number; it was not written by flowkit')
    if number > FORMAT:
        raise UserError(f"{path}: is of format {number}; this flowkit knows formats up to {FORMAT}: upgrade flowkit")
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """All of a file's bytes. Raises UserError where it is missing, no regular file (a pipe would never end), or too large."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > limit:
        raise UserError(f"{path}: is larger than {limit // 1_000_000} MB, and no file of its kind is")
    return raw
