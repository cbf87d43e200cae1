"""Write the files of one call to a folder together, replacing those of an earlier call.

`.flowkit.json` lists them, so that no other files are ever removed. Does not import torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowkit.data.files import read_json, write_json
from flowkit.errors import Interrupted, UserError

MANIFEST = ".flowkit.json"
SAMPLES, PICTURES, EVALUATION = "samples", "pictures", "evaluation"  # parts of the output of a call
SAMPLE_FILES = ("samples.safetensors", "samples.json", "samples.jsonl")
STALE = 86_400  # seconds after which partial files of a killed process are removed
_DRAWING = re.compile(r"\d{3,}-.+\.svg")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512" viewBox="0 0 512 512">\n<title>'


@dataclass
class Call:
    partial: Path  # where to write
    replaced: int = 0  # removed files of an earlier call
    kept: dict[str, str] = field(
        default_factory=dict
    )  # the user's own files that had the same names, with their new names

    @property
    def said(self) -> str:
        """A message on replaced and renamed files. Empty if there were none."""
        return said(self.replaced, self.kept)


def said(replaced: int, kept: dict[str, str] | None = None) -> str:
    parts = [f"replaced {replaced:,} file{'s' if replaced != 1 else ''} of an earlier call"] if replaced else []
    parts += [f"your own {name} is now {new}" for name, new in (kept or {}).items()]
    return "; ".join(parts)


@contextlib.contextmanager
def one_call(folder: Path, part: str, *, only_part: bool = False) -> Iterator[Call]:
    """Yield a hidden folder to write files to. If the block ends without an error, they replace flowkit's files in `folder`.

    only_part: replace only files of this part, because the others belong to the same call or are its input. A file of the
    user's own with the name of a new one is renamed. Raises UserError if the folder cannot be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        call = Call(Path(tempfile.mkdtemp(prefix=".flowkit-", suffix=".partial", dir=folder)))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); name another place with --out") from None
    try:
        yield call
        with _unbroken():
            _put(folder, part, only_part, call)
    except KeyboardInterrupt:
        if not call.partial.exists():
            raise Interrupted(f"all files were written to {folder}") from None
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror or error})") from None
    finally:
        shutil.rmtree(call.partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # keeps folders that are not empty
            for path in made:
                path.rmdir()


def _put(folder: Path, part: str, only_part: bool, call: Call) -> None:
    """Remove the earlier files before moving the new ones, so that a killed process never leaves a mix of both."""
    names = sorted(path.name for path in call.partial.iterdir())
    ours = earlier_files(folder)
    gone = [name for name, of in ours.items() if of == part or not only_part]
    for name in names:
        if name not in ours and (folder / name).exists():
            call.kept[name] = _set_aside(folder / name)
    new = {**{name: of for name, of in ours.items() if name not in gone}, **dict.fromkeys(names, part)}
    if ours or new:
        _record(folder, {**ours, **new})
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    call.replaced = len(gone)
    for name in names:
        (call.partial / name).replace(folder / name)
    if ours or new:
        _record(folder, new)
    shutil.rmtree(call.partial)


def clear(folder: Path, *, but: Iterable[str] = ()) -> int:
    """Remove flowkit's files from `folder`, except those named in `but`. Return how many there were, including those."""
    ours, kept = earlier_files(folder), set(but)
    with _unbroken():
        for name in ours.keys() - kept:
            (folder / name).unlink(missing_ok=True)
        if ours:
            _record(folder, {name: part for name, part in ours.items() if name in kept})
    return len(ours)


def record_samples(file: Path, earlier: Mapping[str, str]) -> None:
    """Record the samples file and the files that belong to it as flowkit's, for later calls.

    earlier: `earlier_files` from before it was written. Its content would make other files of the folder look like
    flowkit's.
    """
    kept = {name: part for name, part in earlier.items() if (file.parent / name).exists()}
    _record(file.parent, {**kept, **dict.fromkeys(SAMPLE_FILES, SAMPLES)})


def check_writable(out: Path) -> None:
    """Raise UserError if the folder `out` cannot be written to. Called before long work; creates nothing."""
    place = next(place for place in (out, *out.parents) if os.path.exists(place))
    if not place.is_dir():
        raise UserError(f"{out}: cannot be written to ({place} is a file, not a folder); name another place with --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot be written to (permission denied); name another place with --out")


def check_samples_target(file: Path) -> None:
    """Raise UserError if samples would replace a file that is not samples of flowkit."""
    for name in SAMPLE_FILES:
        if file.with_name(name).exists() and name not in earlier_files(file.parent):
            raise UserError(
                f"{file.with_name(name)}: already exists and was not written by flowkit; choose another folder with --out"
            )


def earlier_files(folder: Path) -> dict[str, str]:
    """Return {file name: part} for flowkit's files in `folder`, from the manifest, or else recognized by content."""
    try:
        listed = read_json(folder / MANIFEST).get("files")
    except UserError:
        return _recognized(folder) if folder.is_dir() and not (folder / MANIFEST).exists() else {}
    if not isinstance(listed, dict):
        return {}
    return {
        name: str(part)
        for name, part in listed.items()
        if name not in ("", ".", "..") and "\0" not in name and Path(name).name == name and (folder / name).is_file()
    }


def _recognized(folder: Path) -> dict[str, str]:
    """Recognize files by name and content, for folders that an older flowkit wrote without a manifest."""
    found: dict[str, str] = {}
    for path in folder.iterdir():
        if _DRAWING.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(len(_SVG)) == _SVG:
                    found[path.name] = PICTURES
    beside = {"sheet.png": PICTURES} if found else {}
    with contextlib.suppress(UserError):
        if read_json(folder / "samples.json").get("source") == "samples":
            beside |= dict.fromkeys(SAMPLE_FILES, SAMPLES) | dict.fromkeys(
                ("scatter.png", "trajectories.png"), PICTURES
            )
    with contextlib.suppress(UserError):
        if "protocol" in read_json(folder / "evaluation.json"):
            names = ("evaluation.json", "nearest.png", "samples.md", "scatter.png", *SAMPLE_FILES)
            beside |= dict.fromkeys(names, EVALUATION)
    return found | {name: part for name, part in beside.items() if (folder / name).is_file()}


def _record(folder: Path, files: dict[str, str]) -> None:
    if files:
        write_json(folder / MANIFEST, {"files": dict(sorted(files.items()))})
    else:
        (folder / MANIFEST).unlink(missing_ok=True)


def _set_aside(path: Path) -> str:
    for number in range(1, 1000):
        name = f"{path.name}~{number if number > 1 else ''}"
        if not path.with_name(name).exists():
            path.rename(path.with_name(name))
            return name
    raise UserError(f"{path}: already exists and was not written by flowkit; choose another place with --out")


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(".flowkit-*.partial"):
        if time.time() - path.stat().st_mtime > STALE:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends, which takes milliseconds."""
    waiting: list[int] = []
    before = {}
    with contextlib.suppress(ValueError):  # only the main thread receives signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
