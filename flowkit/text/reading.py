"""Read sentences from files, folders and zips. `tables` reads rows; here rows become sentences.

A row that is not a sentence is an error that names its line. Doubtful choices are recorded as notes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.domain import Tell
from flowkit.errors import NothingLeft, UserError, listing
from flowkit.sources.files import Entry, Files, open_files
from flowkit.sources.kinds import BY_SUFFIX, SENTENCES, refusal
from flowkit.sources.splits import split_of
from flowkit.text.columns import Reading
from flowkit.text.tables import read_rows

SUFFIXES = tuple(suffix for suffix, kind in BY_SUFFIX.items() if kind in SENTENCES)
# Invisible characters that Python does not strip: zero-width ones, the byte-order mark, the soft hyphen.
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad "
MAX_MARKS = 1_000  # consecutive combining characters; normalizing n of them takes n * n steps
_BREAKS = re.compile("[\r\v\f\x1c-\x1f\x85\u2028\u2029]")  # characters that may be meant as line ends
# sentencex names languages with their own rules by ISO 639-1, and falls back to related ones for others.
_TWO_LETTERS = {
    "amh": "am", "arb": "ar", "bul": "bg", "ben": "bn", "cat": "ca", "dan": "da", "deu": "de", "ell": "el", "eng": "en",
    "spa": "es", "fin": "fi", "fra": "fr", "guj": "gu", "hin": "hi", "hye": "hy", "ita": "it", "jpn": "ja", "kan": "kn",
    "kaz": "kk", "mal": "ml", "mar": "mr", "mya": "my", "nld": "nl", "pan": "pa", "pol": "pl", "por": "pt", "rus": "ru",
    "slk": "sk", "tam": "ta", "tel": "te", "ukr": "uk",
}  # fmt: skip


@dataclass
class Sentences:
    texts: list[str]
    numbers: np.ndarray  # (N,) int64: line or row number of each text, from 1, counted through all files
    read: int  # rows
    empty: tuple[int, ...] = ()  # numbers of the empty rows that were left out
    notes: tuple[str, ...] = ()  # which column was read, what was not read, what was replaced
    unit: str = "lines"  # what `numbers` count: "lines" of one file, or "rows" of a table or of several files

    def __len__(self) -> int:
        return len(self.texts)


def read_sentences(
    path: Path | str,
    *,
    column: str | None = None,
    skip_empty: bool = False,
    tell: Tell | None = None,
) -> Sentences:
    """Return the sentences of a file, folder or zip in order, normalized to NFC with single spaces for whitespace.

    Reads lines of text, JSON lines, JSON arrays, CSV, TSV and parquet, also gzipped. column: name of the column or JSON key
    of the sentences, or column number from 1. tell: receives progress in bytes. Raises UserError for a missing file, other
    encodings than UTF-8, rows that are not text, an ambiguous column, and empty rows unless `skip_empty` drops them.
    """
    path = Path(path)
    texts: list[str] = []
    numbers: list[int] = []
    empty: list[int] = []
    broken: list[str] = []
    became: Counter[str] = Counter()
    nothing: list[str] = []  # files without a row
    nulls = False
    count = 0
    with open_files(path) as files:
        entries = text_entries(path, files)
        if len(entries) < len(files.entries):
            files.note_unread(entries)
        total = sum(entry.size for entry in entries)
        notes = [*files.notes, *_split_like(entries)]
        said: dict[str, list[str]] = {}
        lined = len(entries) == 1
        for entry in entries:
            where = str(path) if len(files.entries) == 1 and not path.is_dir() else f"{path}/{entry.name}"
            done = files.consumed
            reading = Reading(files, entry, where, column)
            if tell is not None:
                reading.tell_bytes = lambda read, done=done: tell("reading", min(done + read, total), total)
            before = count
            for row in read_rows(reading):
                count = before + row.number
                text = row.text or ""
                nulls = nulls or row.text is None
                if not text.isascii() and len(text) > MAX_MARKS and _longest_run_of_marks(text) > MAX_MARKS:
                    raise reading.error(
                        row.line, f"has more than {MAX_MARKS:,} consecutive combining characters, so it is not text"
                    )
                text = text.rstrip("\r\n")
                became["tabs"] += "\t" in text
                became["line breaks or other control characters"] += bool(_BREAKS.search(text) or "\n" in text)
                text = " ".join(unicodedata.normalize("NFC", text).split())
                if text.strip(INVISIBLE):
                    texts.append(text)
                    numbers.append(count)
                else:
                    empty.append(count)
                    broken += [f"{row.line:,}" if len(entries) == 1 else f"{row.line:,} of {entry.name}"] * (
                        len(broken) <= 99
                    )
            nothing += [entry.name] * (count == before)
            files.consumed = done + entry.size
            lined = lined and files.kind(entry) in ("txt", "text", "jsonl")
            for note in reading.notes:
                said.setdefault(note, []).append(entry.name)
    unit = "lines" if lined else "rows"
    if empty and not skip_empty:
        what, are = ("line", "is") if len(empty) == 1 else ("lines", "are")
        if {files.kind(entry) for entry in entries} & {"json", "parquet"}:
            what = what.replace("line", "row")
        more = [""] * max(0, len(empty) - len(broken))
        raise UserError(
            f"{path}: {what} {listing([*broken, *more], 10)} {are} empty{' or null' * nulls}; expected a "
            f"sentence in each of the {count:,} {unit}. Remove the empty ones, or skip them with --skip-empty"
        )
    if not texts:
        kind = NothingLeft if count else UserError
        raise kind(
            f"{path}: holds no sentences"
            + (f": all {count:,} {unit} are empty" if count else "; expected one per line")
        )
    if nothing:
        are = "1 file is" if len(nothing) == 1 else f"{len(nothing):,} files are"
        notes.append(f"{are} empty: {listing(nothing, 4)}")
    notes += [note if len(entries) == 1 else f"{note} ({listing(names, 4)})" for note, names in said.items()]
    notes += [
        f"{rows:,} {'sentence' if rows == 1 else 'sentences'} contained {what}, which were replaced by spaces"
        for what, rows in became.items()
        if rows
    ]
    return Sentences(texts, np.array(numbers, np.int64), count, tuple(empty), tuple(notes), unit)


def text_entries(path: Path, files: Files) -> list[Entry]:
    """Return the files of a source with sentences. Raises UserError if there are none.

    Text files of unknown suffix (README, notes.md) are read only if the source has nothing else.
    """
    known = files.of_kind(*SENTENCES)
    if known:
        return known
    plain = files.of_kind("text")
    where = f"{path}/{files.entries[0].name}" if path.is_dir() and files.entries else str(path)
    if len(files.entries) == 1 and (why := refusal(files.kind(files.entries[0]), where)):
        raise UserError(f"{where}: is not read: {why}")
    if len(files.entries) == 1 and (plain or not files.entries[0].size):
        return list(files.entries)
    if plain and len({entry.suffix for entry in plain}) == 1:
        return plain
    suffixes = Counter(entry.suffix or "without suffix" for entry in files.entries)
    held = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5)) or "it is empty"
    raise UserError(
        f"{path}: holds no sentences that flowkit can read ({held}); expected {listing(SUFFIXES)}, optionally gzipped"
    )


def _split_like(entries: list[Entry]) -> list[str]:
    """Return notes on files that are named like splits. They are joined and split again."""
    named = sorted({entry.name for entry in entries if split_of(entry.stem) or any(map(split_of, entry.parts[:-1]))})
    if len(entries) < 2 or not named:
        return []
    return [f"{listing(named, 4)}: named like splits, but all files are joined and split again (--split)"]


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


def split_sentences(paragraphs: Sentences, lang: str, tell: Tell | None = None) -> Sentences:
    """Split each text into sentences with sentencex (Wikimedia, some 300 languages).

    `numbers` keeps the line of each sentence. Raises UserError if sentencex is not installed.
    """
    try:
        from sentencex import segment  # type: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise UserError("--split-sentences requires the package sentencex: pip install sentencex") from None
    code = lang.split("_")[0]
    code = _TWO_LETTERS.get(code, code)
    texts: list[str] = []
    lines: list[int] = []
    for done, (text, line) in enumerate(zip(paragraphs.texts, paragraphs.numbers.tolist(), strict=True), 1):
        found = [sentence for sentence in (part.strip() for part in segment(code, text)) if sentence]
        texts += found
        lines += [line] * len(found)
        if tell is not None and (done % 1024 == 0 or done == len(paragraphs)):
            tell("splitting", done, len(paragraphs))
    return Sentences(
        texts, np.array(lines, np.int64), paragraphs.read, paragraphs.empty, paragraphs.notes, paragraphs.unit
    )
