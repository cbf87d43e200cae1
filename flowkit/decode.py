"""Decode samples, prepared data or bare arrays to pictures or sentences, by the domain of the rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.checkpoint import CHECKPOINTS
from flowkit.data.dataset import Dataset, data_files, read_dataset
from flowkit.domain import Bar, DecodeOptions, Domain, Presented, Presenter, Preview, Tell, get_domain
from flowkit.errors import UserError
from flowkit.outputs import PICTURES, check_writable, one_call

PREVIEWED, PREVIEWED_LINES = 8, 16  # rows shown: as pictures, and as one line each


@dataclass(frozen=True)
class Decoded:
    """Rows in a readable form, written to the folder `out`, with previews of a few."""

    out: Path
    shown: Presented
    notice: str = ""  # what could not be done, and why
    replaced: str = ""  # which earlier files were replaced or renamed; empty if none were

    @property
    def files(self) -> tuple[Path, ...]:
        return self.shown.files

    @property
    def previews(self) -> tuple[Preview, ...]:
        return self.shown.previews


@contextlib.contextmanager
def _silent(first: str) -> Iterator[Tell]:
    yield lambda what, done, total: None


def decode(
    path: Path | str,
    *,
    out: Path | None = None,
    limit: int | None = None,
    options: DecodeOptions | None = None,
    bar: Bar = _silent,
) -> Any:
    """Decode the first `limit` rows of the file at `path` the way their domain does.

    Returns a `Decoded` for pictures, written to the folder `out` (by default next to their data), and a
    `flowkit.text.decoding.DecodedSentences` for sentences, written to the file `out` (by default to none). options: those of
    one domain. Raises UserError for an unreadable file, options of another domain, and an `out` that cannot be written to.
    """
    if options is not None:
        options.check()
    data, tensors = _open(Path(path), options)
    if limit is not None and limit < len(data):
        data = data.take(np.arange(limit))
    decoded = get_domain(data.kind).decode(data, tensors, out, options, bar)
    if decoded is not None:
        return decoded
    with bar("reading") as tell:
        out = out or _folder_of(tensors)
        presenter = None if options is None else options.presenter()
        return write_readable(data, out, tell, presenter, only_pictures=tensors.resolve().parent == out.resolve())


def of_one_domain(*options: DecodeOptions) -> DecodeOptions | None:
    """Return those options of which any were given, or None. Raises UserError if they are of more than one domain."""
    given = [one for one in options if one.given()]
    if len(given) > 1:
        first, second = given[:2]
        raise UserError(
            f"{first.given()[0]} (for {first.noun}) and {second.given()[0]} (for {second.noun}) are mutually exclusive"
        )
    return given[0] if given else None


def write_readable(
    data: Dataset,
    out: Path,
    tell: Tell | None = None,
    presenter: Presenter | None = None,
    *,
    only_pictures: bool = False,
    also: Callable[[Path], object] = lambda folder: None,
) -> Decoded:
    """Write all rows in a readable form and preview a few. Raises UserError if `out` cannot be written to.

    Replaces the files of an earlier call in `out`; with only_pictures, only its pictures. presenter: an existing one of the
    domain. also: called with the folder, to write more pictures.
    """
    check_writable(out)
    presenter = presenter or get_domain(data.kind).presenter(None)
    most = PREVIEWED_LINES if data.x.ndim == 2 else PREVIEWED
    few = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int)) if len(data) else []
    with one_call(out, PICTURES, only_part=only_pictures) as call:
        shown = presenter(data, call.partial, shown=[int(row) for row in few], tell=tell)
        also(call.partial)
    shown = replace(shown, files=tuple(out / path.relative_to(call.partial) for path in shown.files))
    return Decoded(out, shown, presenter.notice, call.said)


def _open(path: Path, options: DecodeOptions | None) -> tuple[Dataset, Path]:
    """Return the rows and the file that holds them. Options may say to which domain bare arrays belong."""
    tensors, sidecar = data_files(path)
    if path.suffix.lower() in (".npy", ".npz", ".pt", ".pth"):
        tensors, bare = path, True
    else:
        bare = tensors.is_file() and not sidecar.is_file()
    kind = options.kind if options is not None and options.identify() else None
    if bare:
        if kind is None:
            raise UserError(
                f"{tensors}: {sidecar.name}, which describes it, is missing. If its rows are sentence vectors, name the codec "
                "that made them with --codec"
            )
        return get_domain(kind).read(tensors), tensors
    data = read_dataset(path)
    if kind is not None and data.kind == Domain.kind:  # a model that was trained on bare vectors
        data = replace(data, kind=kind)
    get_domain(data.kind).check(data, str(tensors))
    return data, tensors


def _folder_of(tensors: Path) -> Path:
    """Return where pictures go: next to samples (in a run, to `samples/last/`), otherwise to a folder named like the file."""
    if tensors.stem != "samples":
        return tensors.with_suffix("")
    in_run = (tensors.parent / CHECKPOINTS).is_dir()
    return tensors.parent / "samples" / "last" if in_run else tensors.parent
