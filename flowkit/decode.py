"""From samples, prepared data or other people's vectors to what people can look at. Their kind says which domain does it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flowkit.checkpoint import CHECKPOINTS
from flowkit.data.dataset import Dataset, data_files, read_dataset
from flowkit.domain import Presented, Presenter, Preview, get_domain
from flowkit.errors import UserError
from flowkit.outputs import PICTURES, earlier_files, one_call
from flowkit.text.decoding import (
    Sentences,
    TextOptions,
    check_file,
    codec_of,
    decode_rows,
    languages,
    write_sentences,
)

PREVIEWED, PREVIEWED_LINES = 8, 16  # pictures, and rows that a line each stands for
Tell = Callable[[str, int, int], object]
Bar = Callable[[str], contextlib.AbstractContextManager[Tell]]


@dataclass(frozen=True)
class Decoded:
    """Rows in their readable form, written to the folder `out`; a few of them in `previews`."""

    out: Path
    shown: Presented
    notice: str = ""  # what could not be done, and why
    replaced: str = ""  # says which earlier files were replaced or renamed; empty if none were

    @property
    def files(self) -> tuple[Path, ...]:
        return self.shown.files

    @property
    def previews(self) -> tuple[Preview, ...]:
        return self.shown.previews


@dataclass(frozen=True)
class DecodedSentences:
    sentences: Sentences
    files: tuple[Path, ...]  # none where they are only to be shown
    replaced: str = ""


@contextlib.contextmanager
def _silent(first: str) -> Iterator[Tell]:
    yield lambda what, done, total: None


def decode(
    path: Path | str,
    *,
    out: Path | None = None,
    limit: int | None = None,
    options: TextOptions | None = None,
    bar: Bar = _silent,
) -> Decoded | DecodedSentences:
    """Decode the first `limit` rows of the file at `path`: sentences to the file `out`, pictures to the folder `out`.

    Pictures go beside their data where `out` is None, and sentences to no file. `bar` shows how far it is: what it
    yields is told what is being done, how many rows are done, and of how many. Raises UserError for a file that is none,
    for options of another kind of data, and where `out` cannot be written to.
    """
    options = options or TextOptions()
    options.check()
    data, tensors = _open(Path(path), options.codec)
    if limit is not None and limit < len(data):
        data = data.take(np.arange(limit))
    if data.kind == "embedding":
        return _sentences(data, tensors, out, options, bar)
    if given := options.given():
        raise UserError(f"{given[0]} is for sentence embeddings, and {tensors} holds {get_domain(data.kind).noun}")
    with bar("reading") as tell:
        out = out or _folder_of(tensors)
        return write_readable(data, out, tell, only_pictures=tensors.resolve().parent == out.resolve())


def write_readable(
    data: Dataset,
    out: Path,
    tell: Tell | None = None,
    presenter: Presenter | None = None,
    *,
    only_pictures: bool = False,
    also: Callable[[Path], object] = lambda folder: None,
) -> Decoded:
    """Write every row in its readable form, and draw a few. Raises UserError where `out` cannot be written to.

    What an earlier call wrote to `out` is replaced; only its pictures where they are all that is written anew.
    presenter: of the domain, where one was made already. also: writes further pictures to the folder that it is given.
    """
    domain = get_domain(data.kind)
    check_writable(out)
    progress = None if tell is None else lambda done: tell(f"rendering {domain.noun}", done, len(data))
    presenter = presenter or domain.presenter(None)
    most = PREVIEWED_LINES if data.x.ndim == 2 else PREVIEWED
    few = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int)) if len(data) else []
    with one_call(out, PICTURES, only_part=only_pictures) as call:
        shown = presenter(data, call.partial, shown=[int(row) for row in few], progress=progress)
        also(call.partial)
    shown = replace(shown, files=tuple(out / path.relative_to(call.partial) for path in shown.files))
    return Decoded(out, shown, presenter.notice, call.said)


def check_writable(out: Path) -> None:
    """Look now, so that minutes of sampling are not spent on a place that cannot be written to. Makes nothing yet."""
    place = next(place for place in (out, *out.parents) if os.path.exists(place))
    if not place.is_dir():
        raise UserError(
            f"{out}: cannot be written to ({place} is a file, and no folder); name another place with --out"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot be written to; name another place with --out")


def _open(path: Path, codec: str | None) -> tuple[Dataset, Path]:
    """The rows and the file that holds them. Bare tensors are vectors of the codec that is named."""
    tensors, sidecar = data_files(path)
    if path.suffix.lower() in (".npy", ".npz", ".pt", ".pth"):
        tensors, bare = path, True
    else:
        bare = tensors.is_file() and not sidecar.is_file()
    if bare:
        from flowkit.text.vectors import read_vectors

        if codec is None:
            raise UserError(
                f"{tensors}: has no {sidecar.name} beside it that says what it holds; if its rows are sentence vectors, name "
                "the codec that made them with --codec"
            )
        return Dataset("embedding", read_vectors(tensors)), tensors
    data = read_dataset(path)
    if data.kind == "array" and data.x.ndim == 2 and codec is not None:  # a model that was trained on bare vectors
        data = replace(data, kind="embedding")
    get_domain(data.kind).check(data, str(tensors))
    return data, tensors


def _sentences(data: Dataset, tensors: Path, out: Path | None, options: TextOptions, bar: Bar) -> DecodedSentences:
    if out is not None:
        check_file(out, tensors.with_suffix(".jsonl"))
        check_writable(out.parent)
    if not len(data):
        raise UserError(f"{tensors}: has no rows, so there is nothing to decode")
    codec = codec_of(data, str(tensors), options)
    langs = languages(data, options, codec)
    with bar("decoding") as tell:
        sentences = decode_rows(codec, data, langs, options, tell)
    return DecodedSentences(sentences, ()) if out is None else _written(sentences, out)


def _written(sentences: Sentences, out: Path) -> DecodedSentences:
    """A file of its own name needs no list; files a language do, lest those of other languages stay among them."""
    part = f"sentences {out.name}"
    if (out.suffix == ".jsonl" or len(sentences.by_lang) == 1) and part not in earlier_files(out.parent).values():
        return DecodedSentences(sentences, write_sentences(sentences, out))
    with one_call(out.parent, part, only_part=True) as call:
        files = write_sentences(sentences, call.partial / out.name)
    return DecodedSentences(sentences, tuple(out.parent / path.name for path in files), call.said)


def _folder_of(tensors: Path) -> Path:
    """Where the pictures of a file go: beside samples (in a run, where `flowkit sample` puts them), else a folder of its name."""
    if tensors.stem != "samples":
        return tensors.with_suffix("")
    in_run = (tensors.parent / CHECKPOINTS).is_dir()
    return tensors.parent / "samples" / "last" if in_run else tensors.parent
