"""Prepare sentences, or existing vectors of sentences, as one data set, and report what was kept and left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.data.dataset import SPLITS, Dataset, write_dataset
from flowkit.data.target import free_target
from flowkit.domain import Tell
from flowkit.errors import Interrupted, UserError, listing, nearest
from flowkit.sources.files import open_files
from flowkit.sources.kinds import ARRAYS, TENSORS
from flowkit.text.codec import CODECS, ENGLISH, Codec, languages_of, open_codec, unknown_codec, why_unavailable
from flowkit.text.deduplicate import Duplicates, exact_duplicates, near_duplicates, row_keys
from flowkit.text.encoding import Scratch, encode
from flowkit.text.languages import unknown_language
from flowkit.text.prepare_report import Pair, Removed, TextReport, statistics
from flowkit.text.reading import Sentences, read_sentences, split_sentences
from flowkit.text.vectors import read_vectors

NEAR = 0.95  # cosine above which two sentences are near-duplicates
FRACTIONS = (0.8, 0.1, 0.1)
SONAR_DIMENSION = 1024  # of Meta's release
SONAR_NORMS = (
    0.08,
    0.6,
)  # sentences have norms of about 0.2 to 0.3; the decoder fails on others, such as vectors normalized to 1
DTYPES = ("fp32", "fp16", "bf16")
Named = Codec | Mapping[str, Any] | str


@dataclass(frozen=True)
class Settings:
    lang: str = ENGLISH
    column: str | None = None  # table column or JSON key of the sentences; None detects it
    split_sentences: bool = False  # whether each line is a paragraph to be split
    skip_empty: bool = False
    near_duplicates: float = NEAR  # 0 keeps them
    split: tuple[float, ...] = FRACTIONS  # training, validation, test
    seed: int = 0
    device: str = "auto"
    dtype: str = "fp32"


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """Turn the options of `flowkit prepare`, by name, into arguments of `prepare`. Raises UserError for a bad value."""
    options = dict(options)
    given: dict[str, Any] = {"texts": options.pop("texts", None)}
    parts = {name: options.pop(name) for name in ("encoder", "decoder", "tokenizer") if name in options}
    codec = options.pop("codec", None)
    if parts and codec != "sonar":
        raise UserError(f"{', '.join(f'--{name}' for name in parts)}: replaces a part of SONAR; requires --codec sonar")
    given["codec"] = None if codec is None else {"name": codec, **parts}
    if (split := options.get("split")) is not None:
        try:
            options["split"] = tuple(float(part) for part in split.split(","))
        except ValueError:
            raise UserError(f"--split {split}: expected three fractions that sum to 1, such as 0.8,0.1,0.1") from None
    return {**given, "settings": Settings(**options)}


@dataclass(frozen=True)
class _Rows:
    """Candidate rows of x, with their sentences (one text per row) and line or vector numbers."""

    x: np.ndarray  # (M, D) float32
    rows: np.ndarray  # (N,) of x
    numbers: np.ndarray  # (N,)
    texts: Sequence[str] | None  # (N,)
    exact: Removed
    codec: dict[str, Any] | None
    lines: Sentences | None  # as read
    truncated: int = 0

    def pair(self, duplicates: Duplicates) -> Pair | None:
        """Return the pair of near-duplicates with the lowest cosine."""
        if not len(duplicates.removed):
            return None
        row = int(duplicates.removed[duplicates.cosine[duplicates.removed].argmin()])
        return _pair(int(duplicates.partner[row]), row, self.texts, self.numbers, float(duplicates.cosine[row]))


def prepare(
    source: Path | str,
    out: Path | str,
    *,
    codec: Named | None = None,
    texts: Path | str | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
    notice: Callable[[str], object] | None = None,
) -> TextReport:
    """Write the data set `out` with vectors x (N, D) of the sentences in `source`, or from the file of vectors `source`.

    codec: encodes the sentences (a file, folder or zip), or the codec that made the vectors. texts: the sentences of a
    file of vectors, one line per row. Exact duplicates are removed, and so are vectors with a cosine above
    `near_duplicates` to an earlier one. Rows are shuffled by `seed` and split, so that no two rows of different splits are
    near-duplicates, and the first k training rows are a random subset. Sentences are encoded in shards: after an
    interruption, the same call resumes. tell: receives progress. notice: receives what the user should know.

    Raises UserError for a missing source, a line that is not a sentence, counts that differ, a codec that does not fit, and
    if `out` exists.
    """
    source, texts, how = Path(source), None if texts is None else Path(texts), settings or Settings()
    tell, notice = tell or (lambda stage, done, total: None), notice or (lambda text: None)
    imported = _holds_vectors(source)
    _check(source, imported, codec, texts, how)
    sources = [source] if texts is None else [source, texts]
    paths = free_target(
        out, overwrite=overwrite, sources=sources, texts=bool(texts) or not imported, example="sentences"
    )
    scratch = Scratch(paths[0])
    try:
        if imported:
            chosen = _import(source, texts, codec, how, tell, notice)
            with scratch.locked():
                return _finish(source, paths, chosen, how, tell)
        assert codec is not None, "checked"
        lines = _read(source, how, tell)
        tell("opening the codec", 0, 0)
        opened = _open(codec, how)
        with scratch.locked():
            report = _finish(source, paths, _encode(lines, opened, how, scratch, tell, notice), how, tell)
            scratch.remove()
            return report
    except KeyboardInterrupt as stop:
        done = scratch.encoded()
        kept = f"{done:,} encoded sentences are kept in {scratch.folder}; rerun the same command to resume"
        notice(f"interrupted: {kept if done else 'nothing was written'}")
        raise Interrupted(str(stop)) from None  # its own message, in addition to the notice


def _finish(source: Path, paths: tuple[Path, ...], chosen: _Rows, how: Settings, tell: Tell) -> TextReport:
    near = _near_duplicates(chosen, how, tell)
    data, order = _dataset(chosen, near, how)
    data.info = _info(source, chosen, near, how)
    write_dataset(paths[0], data, order, lambda done, total: tell("writing", done, total))
    return _report(source, paths, chosen, near, data, order, how)


def _holds_vectors(source: Path) -> bool:
    with open_files(source) as files:
        return len(files.entries) == 1 and not source.is_dir() and files.kind(files.entries[0]) in (*ARRAYS, *TENSORS)


def _check(source: Path, imported: bool, codec: Named | None, texts: Path | None, how: Settings) -> None:
    """Raise UserError for bad options before anything is read, downloaded, trained or loaded."""
    if imported and how.split_sentences:
        raise UserError(f"--split-sentences: does not apply to vectors, and {source} holds vectors; leave it out")
    if not imported and texts is not None:
        raise UserError(f"--texts: requires a file of vectors, and {source} holds sentences; leave it out")
    if not imported and codec is None:
        raise UserError(f"--codec is required to encode the sentences in {source}: {' or '.join(CODECS)}")
    if codec is not None and not isinstance(codec, str | Mapping):
        _check_language(how.lang, codec.languages, codec.name)
    elif codec is not None:
        name = codec if isinstance(codec, str) else str(codec.get("name"))
        if name not in CODECS:
            raise unknown_codec(name)
        if not imported or how.lang != ENGLISH:
            try:
                known = languages_of(codec)
            except UserError:
                if not imported:
                    raise
                known = (how.lang,)  # vectors need no codec on this machine: check the form of the code
                if not re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", how.lang):
                    raise UserError(
                        f"lang: {how.lang!r} is not a language code; expected ISO 639-3 and a script, such as {ENGLISH}"
                    ) from None
            _check_language(how.lang, known, name)
    if how.dtype not in DTYPES:
        raise UserError(f"--dtype {how.dtype}: expected {listing(DTYPES)}{nearest(how.dtype, DTYPES)}")
    if how.split_sentences and find_spec("sentencex") is None:
        raise UserError("--split-sentences requires the package sentencex: pip install sentencex")
    if not 0 <= how.near_duplicates < 1:
        raise UserError(f"--near-duplicates {how.near_duplicates:g}: expected a cosine from 0 (keep all) to below 1")
    fractions = how.split
    if (
        len(fractions) != 3
        or min(fractions) < 0
        or not fractions[0]
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        given = ",".join(f"{fraction:g}" for fraction in fractions)
        raise UserError(f"--split {given}: expected three fractions that sum to 1, such as 0.8,0.1,0.1")


def _check_language(lang: str, known: Sequence[str], codec: str) -> None:
    if lang not in known:
        raise UserError(unknown_language(lang, known, f"the codec {codec!r}"))


def _read(path: Path, how: Settings, tell: Tell) -> Sentences:
    lines = read_sentences(path, column=how.column, skip_empty=how.skip_empty, tell=tell)
    return split_sentences(lines, how.lang, tell) if how.split_sentences else lines


def _open(codec: Named, how: Settings) -> Codec:
    opened = open_codec(codec, device=how.device, dtype=how.dtype) if isinstance(codec, str | Mapping) else codec
    _check_language(how.lang, opened.languages, opened.name)
    return opened


def _encode(
    lines: Sentences, codec: Codec, how: Settings, scratch: Scratch, tell: Tell, notice: Callable[[str], object]
) -> _Rows:
    equal = exact_duplicates(lines.texts)
    texts, numbers = [lines.texts[row] for row in equal.kept], lines.numbers[equal.kept]
    x, truncated = encode(texts, codec, how.lang, scratch, dtype=how.dtype, tell=tell, notice=notice)
    removed = _removed(equal, lines.texts, lines.numbers)
    return _Rows(x, np.arange(len(x)), numbers, texts, removed, codec.identity(), lines, truncated)


def _import(
    source: Path, texts: Path | None, codec: Named | None, how: Settings, tell: Tell, notice: Callable[[str], object]
) -> _Rows:
    lines = None if texts is None else _read(texts, how, tell)
    x = read_vectors(source)
    if lines is not None and lines.read != len(x):
        rows, vectors = lines.unit[: -1 if lines.read == 1 else None], "vector" if len(x) == 1 else "vectors"
        raise UserError(
            f"{texts}: has {lines.read:,} {rows}, but {source} has {len(x):,} {vectors}; expected one sentence per vector"
        )
    identity = None if codec is None else _identity(codec, how, notice)
    dimension = (identity or {}).get("dimension")
    if dimension is not None and dimension != x.shape[1]:
        assert identity is not None
        raise UserError(
            f"{source}: its vectors have {x.shape[1]} dimensions, but the codec {identity.get('name')!r} has "
            f"{dimension}; name the codec that made them"
        )
    rows = np.arange(len(x)) if lines is None else lines.numbers - 1
    keys = row_keys(x) if lines is None else lines.texts
    equal = exact_duplicates(keys)
    kept = None if lines is None else [lines.texts[row] for row in equal.kept]
    removed = _removed(equal, None if lines is None else lines.texts, rows + 1)
    return _Rows(x, rows[equal.kept], rows[equal.kept] + 1, kept, removed, identity, lines)


def _identity(codec: Named, how: Settings, notice: Callable[[str], object]) -> dict[str, Any]:
    """Return the identity of the codec. If SONAR is not available, return it as given: nothing has to be encoded."""
    if not isinstance(codec, str | Mapping):
        return codec.identity()
    described = {"name": codec} if isinstance(codec, str) else dict(codec)
    missing = why_unavailable(described) if described.get("name") == "sonar" else None
    if missing is None:
        return _open(described, how).identity()
    notice(f"samples cannot be decoded on this machine yet: {missing}")
    return described if len(described) > 1 else {**described, "dimension": SONAR_DIMENSION}


def _near_duplicates(chosen: _Rows, how: Settings, tell: Tell) -> Duplicates:
    count = len(chosen.rows)
    if not how.near_duplicates:
        return Duplicates(np.full(count, -1, np.int64), np.ones(count, np.float32))
    return near_duplicates(chosen.x, chosen.rows, how.near_duplicates, device=how.device, tell=tell)


def _dataset(chosen: _Rows, near: Duplicates, how: Settings) -> tuple[Dataset, np.ndarray]:
    """Return all rows, and the indices to write in order: shuffled, training rows first."""
    kept = near.kept[np.random.default_rng(how.seed).permutation(len(near.kept))]
    order, split = chosen.rows[kept], np.zeros(len(chosen.x), np.uint8)
    sizes = split_sizes(len(order), how.split)
    split[order] = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    texts = None
    if chosen.texts is not None:
        texts = [""] * len(chosen.x)
        for row, text in zip(chosen.rows.tolist(), chosen.texts, strict=True):
            texts[row] = text
    return Dataset("text", chosen.x, split=split, texts=texts), order


def split_sizes(count: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test rows. With 3 rows or more, no requested split is empty."""
    held_out = [max(round(count * part), 1 if part and count >= 3 else 0) for part in fractions[1:]]
    validation, test = held_out
    return count - validation - test, validation, test


def _info(source: Path, chosen: _Rows, near: Duplicates, how: Settings) -> dict[str, Any]:
    lines = chosen.lines
    return {
        **({"codec": chosen.codec} if chosen.codec else {}),
        "lang": how.lang,
        "source": {"name": source.name, "format": _format(source)},
        "prepared": {
            "seed": how.seed,
            "split": list(how.split),
            "split_sentences": how.split_sentences,
            "dtype": how.dtype,
            "near_duplicates_above": how.near_duplicates or None,
            "read": len(chosen.x) if lines is None else lines.read,
            "left_out": {
                "empty": 0 if lines is None else len(lines.empty),
                "exact_duplicates": chosen.exact.count,
                "near_duplicates": len(near.removed),
            },
            "truncated": chosen.truncated,
            "notes": [] if lines is None else list(lines.notes),
        },
    }


def _format(source: Path) -> str:
    """Return "txt", "jsonl", "npy", ... by content, or "folder" or "zip"."""
    if source.is_dir():
        return "folder"
    with open_files(source) as files:
        kind = files.kind(files.entries[0]) if len(files.entries) == 1 and files.entries[0].key == source else "zip"
    return {"text": "txt", "torch": "pt"}.get(kind, kind)


def _report(
    source: Path,
    paths: tuple[Path, ...],
    chosen: _Rows,
    near: Duplicates,
    data: Dataset,
    order: np.ndarray,
    how: Settings,
) -> TextReport:
    assert data.split is not None
    splits = {name: int((data.split[order] == number).sum()) for name, number in SPLITS.items()}
    measured, lines = statistics(chosen.x, order[: splits["train"]]), chosen.lines
    remarks = [] if lines is None else list(lines.notes)
    if (chosen.codec or {}).get("name") == "sonar" and not SONAR_NORMS[0] < measured.norm < SONAR_NORMS[1]:
        remarks.append(
            f"the mean norm of these vectors is {measured.norm:.3g}, and SONAR vectors have about 0.2. If they were normalized, "
            "undo that first; otherwise their samples cannot be decoded"
        )
    if chosen.codec is None:
        remarks.append("without --codec, samples cannot be decoded to sentences")
    if not how.near_duplicates:
        remarks.append("near-duplicates were kept, so validation rows may be near-copies of training rows")
    return TextReport(
        source=source,
        format=_format(source),
        paths=paths,
        shape=(len(order), chosen.x.shape[1]),
        splits=splits,
        read=len(chosen.x) if lines is None else lines.read,
        unit="vectors" if lines is None else lines.unit,
        sentences=len(lines) if lines is not None and how.split_sentences else None,
        empty=0 if lines is None else len(lines.empty),
        exact=chosen.exact,
        near=Removed(len(near.removed), chosen.pair(near)),
        threshold=how.near_duplicates,
        truncated=chosen.truncated,
        statistics=measured,
        codec=(chosen.codec or {}).get("name"),
        remarks=tuple(remarks),
    )


def _removed(equal: Duplicates, texts: Sequence[str] | None, numbers: np.ndarray) -> Removed:
    if not len(equal.removed):
        return Removed(0)
    row = int(equal.removed[0])
    return Removed(len(equal.removed), _pair(int(equal.partner[row]), row, texts, numbers, None))


def _pair(first: int, second: int, texts: Sequence[str] | None, numbers: np.ndarray, cosine: float | None) -> Pair:
    both = None if texts is None else (texts[first], texts[second])
    return Pair(both, (int(numbers[first]), int(numbers[second])), cosine)
